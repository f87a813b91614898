"""Names of MMSegmentation's configs lead to their replacement, in every place of a config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segkernel import build, load_config
from segkernel.catalog import Catalog
from segkernel.errors import SegKernelError
from segplug_heads.former_names import MOVED, SCOPED, former_name


def section(key: str) -> Callable[[], object]:
    return lambda: load_config({key: {}})


def component(group: str, name: str) -> Callable[[], object]:
    return lambda: build(group, {"type": name})


SAID = {
    "section": (section("optim_wrapper"), "optim: {optimizer: {type: SGD, ...}"),
    "hooks": (section("default_hooks"), "hooks: [{type: CheckpointHook, ...}]"),
    "loader": (section("train_dataloader"), "data.train is the data set"),
    "override": (lambda: load_config({}, ["param_scheduler.power=0.9"]), "it is schedule.lr"),
    "transform": (component("transforms", "LoadImageFromFile"), "data sets read images and labels by themselves"),
    "scoped": (component("losses", "mmdet.FocalLoss"), "it is QueryFocalLoss here"),
    "own scope": (component("heads", "mmseg.PSPHead"), "it is PSPHead here"),
    "other scope": (component("backbones", "mmpretrain.MobileOne"), "without mmpretrain. it is MobileOne"),
    "published": (lambda: load_config("fcn_r50-d8_512x1024_40k_cityscapes"), "fcn_r50-d8_4xb2-40k_cityscapes-512x1024"),
    "packaged file": (
        lambda: load_config("configs/fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"),
        "no such file\n    this one is packaged, without .py: fcn_r50-d8_4xb2-40k_cityscapes-512x1024",
    ),
    "own file": (lambda: load_config("my_config.py"), "my_config.py: no such file\n    seg-kernel models lists"),
}


@pytest.mark.parametrize("case", SAID)
def test_the_error_names_the_replacement(case: str) -> None:
    call, expected = SAID[case]
    with pytest.raises(SegKernelError) as caught:
        call()
    assert expected in str(caught.value)


def test_an_existing_python_file_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(SegKernelError, match=r"mine.py:1:1 raise is not read in a config"):
        load_config(tmp_path / "mine.py")


def test_unchanged_names_are_not_in_the_table() -> None:
    components = {row.name for row in Catalog.discover().rows if row.group != "former_names"}
    assert not components & MOVED.keys()
    assert former_name("PSPHead") == former_name("chanels") == ""
    assert "val_interval" in former_name("workflow")
    assert "RGB" in former_name("bgr_to_rgb")
    assert "engine.backend" in former_name("dist_cfg")


def test_scoped_names_lead_to_components() -> None:
    components = {row.name for row in Catalog.discover().rows}
    ours = set(SCOPED.values()) - {"ConvNeXt", "PoolFormer"}  # of segplug-backbones
    assert ours <= components
