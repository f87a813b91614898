"""Small config folders: files below a temporary folder, and two zoos in packages that raise when imported."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from segkernel.catalog import Catalog, Row

SOURCE = Row("config_sources", "ZooSource", "segplug-heads", "0.3.0", "segplug_heads.configs.source:ZooSource")
FAMILY = """
_meta_:
  paper: {title: Pyramid Scene Parsing Network, year: 2017}
base:
  plugins: {prefer: [segplug-heads]}
  model:
    type: EncoderDecoder
    backbone: {type: ResNetV1c, depth: 50}
    decode_head: {type: PSPHead, channels: 512, num_classes: "${data.num_classes}"}
    auxiliary_head: {type: FCNHead}
variants:
  r50-d8:
  r101-d8: {_base_: r50-d8, model: {backbone: {depth: 101}}}
  r18-d8:
    model: {backbone: {depth: 18}, decode_head: {channels: 128}, ~auxiliary_head: }
experiments:
  pspnet_r50-d8_4xb2-40k_cityscapes-512x1024:
    _meta_: {mIoU: 77.85, weights: "https://example.org/psp.pth"}
  pspnet_r101-d8_4xb2-amp-80k_cityscapes-512x1024:
  one-of-a-kind:
    variant: r18-d8
    schedule: 4xb2-40k
    data: cityscapes-512x1024
    optim: {optimizer: {lr: 0.02}}
"""
SCHEDULES = """
layouts:
  4xb2: {optim: {batch_size: 8}}
options:
  amp: {engine: {amp: float16}}
lengths:
  40k: &length
    optim: {optimizer: {type: SGD, lr: 0.01}}
    schedule: {iterations: 40000, lr: [{type: PolyLR, end: "${schedule.iterations}"}]}
  80k:
    optim: {optimizer: {type: SGD, lr: 0.01}}
    schedule: {iterations: 80000, lr: [{type: PolyLR, end: "${schedule.iterations}"}]}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a file below the temporary folder, which is the current one."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def zoo(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Catalog:
    """A catalogue with a models zoo and a data zoo, in packages that must not be imported."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for package in ("toy_heads", "toy_datasets"):
        write(f"site/{package}/__init__.py", "raise RuntimeError('imported')\n")
        monkeypatch.delitem(sys.modules, package, raising=False)
    write("site/toy_heads/zoo/families/pspnet.yaml", FAMILY)
    write("site/toy_heads/zoo/schedules.yaml", SCHEDULES)
    write("site/toy_heads/zoo/quickstart.yaml", "_base_: parts/small.yaml\nseed: 1\n")
    write("site/toy_heads/zoo/parts/small.yaml", "model: {type: FastSCNN}\n")
    write("site/toy_datasets/zoo/data/cityscapes-512x1024.yaml", "data: {num_classes: 19, crop_size: [512, 1024]}\n")
    return Catalog(
        (
            SOURCE,
            Row("zoo", "segplug-heads", "segplug-heads", "0.1.0", "toy_heads:zoo"),
            Row("zoo", "segplug-datasets", "segplug-datasets", "0.1.0", "toy_datasets.zoo"),
        )
    )


@pytest.fixture
def models_only(zoo: Catalog) -> Catalog:
    """The same without the data package."""
    return Catalog(zoo.rows[:2])


@pytest.fixture
def source_only() -> Catalog:
    """The config source, and no zoo."""
    return Catalog((SOURCE,))
