"""The batch of a failed step is reproduced, value by value."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from segkernel import hookimpl
from segkernel.data import Loader
from segkernel.errors import DataError, TrainingError
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.sample import LabelMap, Sample
from segkernel.testing.toys import ToySegmentor
from segplug_training.batch_record import BatchRecord, digest
from segplug_training.replay import command


class Noisy:
    """Eight grey images."""

    classes = ("a", "b")
    palette = ((255, 0, 0), (0, 0, 255))
    brightness = 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        labels = np.zeros((16, 16), np.uint8)
        labels[:, index:] = 1
        image = np.full((16, 16, 3), 20 * index + self.brightness, np.uint8)
        return Sample({"seg": LabelMap(labels)}, {"name": f"image_{index}"}, image)


class AddNoise:
    """Random values, by the sample's own generator."""

    needs = 0

    def __call__(self, sample, rng):
        sample.image = sample.image + rng.integers(0, 50, sample.image.shape, np.uint8)
        return sample


class BreakAt:
    """Notes the batches of a step and spoils its loss."""

    def __init__(self, iteration):
        self.iteration = iteration

    @hookimpl
    def before_train_iteration(self, run, batches):
        if run.iteration + 1 == self.iteration:
            self.batches = batches
            run.model.decode_head.conv_seg.weight.data.fill_(float("nan"))


CONFIG = {
    "model": {"type": "segkernel.testing.toys:ToySegmentor", "num_classes": 2},
    "data": {"train": {"type": f"{__name__}:Noisy"}, "train_transforms": [{"type": f"{__name__}:AddNoise"}]},
    "optim": {"optimizer": {"type": "SGD", "lr": 0.1}, "batch_size": 4},
    "schedule": {"iterations": 6},
}


@pytest.fixture
def broken(make_runner, monkeypatch):
    """Return the directory of a run that broke in its fifth step, and what it had then; its second epoch."""
    import sys

    monkeypatch.setitem(sys.modules, "replayed", sys.modules[__name__])
    config = json.loads(json.dumps(CONFIG).replace(f"{__name__}:", "replayed:"))
    breaking = BreakAt(5)
    train = Loader(Noisy(), [AddNoise()], micro_batch=2, seed=3)
    hooks = breaking, CheckpointHook(interval=4)
    options = {"model": ToySegmentor(2), "train": train, "batch_size": 4, "seed": 3, "config": config}
    runner = make_runner(*hooks, validate=False, **options)
    with pytest.raises(TrainingError, match="seg-kernel replay"):
        runner.train()
    runner.close()
    return runner.work_dir, breaking.batches


def test_the_batch_equals_that_of_the_run(broken):
    work_dir, batches = broken
    record = BatchRecord.load(work_dir)
    assert (record.iteration, record.position, record.loss) == (5, 16, "nan")
    again = record.rebuild(Loader(Noisy(), [AddNoise()], micro_batch=2, seed=3))
    assert len(again) == 2
    for first, second in zip(again, batches, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.targets["seg"], second.targets["seg"])
    assert digest(again) == digest(batches) == record.digest


@pytest.mark.parametrize(("change", "message"), [({"seed": 4}, "data set has changed"), ({"transforms": ()}, "values")])
def test_data_that_changed_are_an_error(broken, change, message):
    record = BatchRecord.load(broken[0])
    arguments = {"transforms": [AddNoise()], "micro_batch": 2, "seed": 3, **change}
    with pytest.raises(DataError, match=message):
        record.rebuild(Loader(Noisy(), **arguments))


def test_the_command_makes_it_from_the_run_s_config(broken, tmp_path):
    work_dir, batches = broken
    weights, out = work_dir / "checkpoints" / "iter_0000004.pt", tmp_path / "out"
    options = [str(work_dir), "--out", str(out), "--weights", str(weights)]
    done = CliRunner().invoke(command, options, catch_exceptions=False)
    assert done.exit_code == 0
    assert "iteration 5, rank 0: loss nan; the same values as in the run" in done.output
    for batch in batches:
        assert all(meta["name"] in done.output for meta in batch.meta)
    assert done.output.count("decode.loss_ce 0.") == 2, "finite with the last good weights"
    picture = np.asarray(Image.open(out / "1_0.png"))
    assert (picture[:, :16] == batches[1].images[0].permute(1, 2, 0).numpy()).all()


def test_a_run_without_records_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no batch was recorded"):
        BatchRecord.load(tmp_path)
    (tmp_path / "some.json").write_text("{}")
    with pytest.raises(DataError, match="is not a batch record"):
        BatchRecord.load(tmp_path / "some.json")
