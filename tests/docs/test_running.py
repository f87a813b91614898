"""Blocks of pages that no walkthrough follows run as they stand, on small data; `test_blocks` checks the rest."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_blocks import OTHERS, PLACEHOLDERS, as_config, blocks, lines, named_blocks

from segkernel.building import build
from segkernel.catalog import Catalog
from segkernel.cli import cli
from segkernel.config import load_config
from segkernel.experiment import make_runner
from segkernel.hookspecs import hookimpl
from segkernel.loading import make_model
from segplug_datasets import image

SMALL = ["data.crop_size=[64,96]", "data.train.length=4", "+data.val.length=1", "+data.test.length=1", "data.workers=0",
         "export=[]"]  # fmt: skip
"""Overrides of the quick start that shorten a run, and change nothing that a block is about."""
NOT_RUN = {
    "local_configs/": "a part of a zoo; test_blocks composes it",
    "_base_: ": "shows how bases are merged; test_blocks checks the result",
    "# base.yaml": "the same",
    "data: {num_classes: 19": "shows references",
    "compile: default": "compiling takes minutes",
    "teacher: ": "needs a trained model",
    "WandbHook": "needs a service",
    "open-mmlab:": "needs a download",
    "slice_file: ": "needs a table of the reader's images",
    "CocoInstanceDataset": "needs COCO",
}
"""What a block has that is not run, and why."""
RUN = [each for each in blocks("yaml", OTHERS) if not any(word in each.values[0] for word in (*NOT_RUN, *PLACEHOLDERS))]
MODELS = [block for block in RUN if re.search(r"^model:\n  type", block.values[0], re.M)]
DATASETS = [block for block in RUN if "FolderDataset" in block.values[0]]
PARTS = [block for block in RUN if "dilations: " in block.values[0]]


class Stop:
    """Ends training after two steps."""

    @hookimpl
    def after_train_iteration(self, run: Any) -> None:
        if run.iteration == 2:
            run.stop("the test has seen enough")


@pytest.mark.slow  # test_blocks checks all keys and arguments
@pytest.mark.parametrize("text", [block for block in RUN if block not in (*MODELS, *DATASETS, *PARTS)])
@pytest.mark.filterwarnings("ignore")
def test_a_config_trains(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("block.yaml").write_text(as_config(text), "utf-8")
    config = load_config("block.yaml", [*SMALL, *([] if "batch_size" in text else ["optim.batch_size=2"])])
    runner = make_runner(config, tmp_path / "run", hooks=[Stop()])
    runner.run()
    assert runner.iteration == 2
    assert np.isfinite(runner.metrics["mIoU"])


@pytest.mark.parametrize("text", [*MODELS, *PARTS])
def test_a_model_computes(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_named_blocks()
    Path("block.yaml").write_text(text if "type: " in text.split("\n")[1] else f"_base_: base.yaml\n{text}", "utf-8")
    config = load_config("block.yaml")
    model = make_model(config, Catalog.current()).eval()
    channels = len(((config.get("data") or {}).get("preprocess") or {}).get("mean", "RGB"))
    with torch.no_grad():
        outputs = model.predict(torch.zeros(1, channels, 64, 64))
    assert outputs.keys() == model.outputs.keys()


@pytest.mark.parametrize("text", DATASETS)
def test_a_data_set_reads_its_files(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("block.yaml").write_text(as_config(text), "utf-8")
    spec = load_config("block.yaml")["data"]["train"]
    root = Path(spec.get("data_root", "."))
    masks = spec["masks"].values() if hasattr(spec["masks"], "values") else [spec["masks"]]
    given = [spec.get("weights"), spec.get("depth"), *(each.get("weights") for each in masks if hasattr(each, "get"))]
    image.write(root / spec["images"] / "one.png", np.zeros((8, 8, 3), np.uint8))
    for mask in [*(each["path"] if hasattr(each, "get") else each for each in masks), *filter(None, given)]:
        image.write_mask(root / mask / "one.png", np.eye(8, dtype=np.uint8))
    if "split" in spec:
        Path(spec["split"]).write_text("one\n", "utf-8")
    sample = build("datasets", spec, catalog=Catalog.current())[0]
    assert sample.size == (8, 8)


READING = re.compile(
    r"(models (?!download)|models$|explain|schema|plugins$|runs|completion|config|data prepare --list)\b"
)
"""Commands that only print."""


@pytest.mark.parametrize("line", [line for line in lines(OTHERS) if READING.match(line.values[0])])
def test_a_command_that_only_prints_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("work_dirs/my").mkdir(parents=True)
    write_named_blocks()
    words = shlex.split(line.partition(" > ")[0], comments=True)
    assert not cli.main(args=words, standalone_mode=False)


def write_named_blocks() -> None:
    """Write the blocks that begin with the name of a file."""
    for name, block in named_blocks():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(block, "utf-8")
