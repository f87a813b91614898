"""A model learns from images without labels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segkernel.errors import DataError, UsageError
from segkernel.experiment import run
from segkernel.sample import Sample
from segplug_training.semi_supervised import ImagesWithoutLabels, SemiSupervisedHook
from segplug_training.strong_views import cutmix_mask, strong_view

CONFIG = {
    "model": {"type": "segkernel.testing.toys:ToySegmentor"},
    "data": {"train": {"type": "command_toys:Squares"}, "workers": 0},
    "optim": {"optimizer": {"type": "AdamW", "lr": 0.01}, "batch_size": 4},
    "engine": {"type": "CUDAEngine", "device": "cpu"},
}


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def semi_supervised(folder: Path, iterations: int = 6, *, resume=False, **hook):
    hook = {"type": "SemiSupervisedHook", "data": {"type": "command_toys:Squares"}, "threshold": 0.3, **hook}
    hooks = [{"type": "MeterHook", "interval": 1}, {"type": "CheckpointHook", "interval": 3}, hook]
    config = {**CONFIG, "hooks": hooks, "schedule": {"iterations": iterations}, "work_dir": str(folder)}
    return run(config, resume=resume)


def records(runner):
    return [json.loads(line) for line in (runner.work_dir / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_of_images_without_labels_is_added(tmp_path):
    runner = semi_supervised(tmp_path, 30, threshold=0.5)
    first, last = records(runner)[0], records(runner)[-1]
    assert "loss" not in vars(runner.model)
    assert {"unlabelled.decode.loss_ce", "unlabelled.share"} <= first.keys()
    assert last["loss"] == pytest.approx(last["decode.loss_ce"] + last["unlabelled.decode.loss_ce"], rel=1e-5)
    assert 0 < last["unlabelled.share"] <= 1
    assert last["unlabelled.share"] > first["unlabelled.share"]


def test_a_teacher_that_is_never_sure_teaches_nothing(tmp_path):
    plain = semi_supervised(tmp_path / "plain", weight=0.0)
    unsure = semi_supervised(tmp_path / "unsure", threshold=1.0)
    assert all(record["unlabelled.share"] == 0 for record in records(unsure))
    for a, b in zip(plain.model.parameters(), unsure.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_resuming_is_exact(tmp_path):
    whole = semi_supervised(tmp_path / "whole")
    semi_supervised(tmp_path / "part", 3)
    resumed = semi_supervised(tmp_path / "resumed", resume=tmp_path / "part" / "checkpoints" / "iter_0000003.pt")
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    states = [
        torch.load(each.work_dir / "checkpoints" / "iter_0000006.pt")["hooks"]["SemiSupervisedHook.0"]
        for each in (whole, resumed)
    ]
    assert states[0]["drawn"] == states[1]["drawn"] == 24
    for name, value in states[0]["teacher"].items():
        assert torch.equal(value, states[1]["teacher"][name])


def test_the_teacher_is_first_the_mean_of_the_models_and_then_forgets():
    model, hook = torch.nn.Linear(1, 1, bias=False), SemiSupervisedHook(Path(), momentum=0.75)
    hook.teacher = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(hook.teacher.weight)
    expected = [0.5, 1.0, 1.5, 2.125]  # three means of 0, 1, 2, 3, then 3/4 of the last and 1/4 of 4
    for iteration, wanted in enumerate(expected, 1):
        torch.nn.init.constant_(model.weight, iteration)
        hook.after_train_iteration(SimpleNamespace(model=model, iteration=iteration))
        assert float(hook.teacher.weight) == pytest.approx(wanted)


def test_a_folder_of_images_is_read(tmp_path):
    import cv2

    (tmp_path / "deep").mkdir()
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    cv2.imwrite(str(tmp_path / "deep" / "a.png"), pixels)
    (tmp_path / "notes.txt").write_text("no image")
    images = ImagesWithoutLabels(tmp_path)
    assert len(images) == 1
    sample = images[0]
    assert isinstance(sample, Sample)
    assert np.array_equal(sample.image, pixels[..., ::-1])
    assert not sample["seg"].array.any()
    with pytest.raises(DataError, match="no images"):
        ImagesWithoutLabels(tmp_path / "nowhere")


def test_models_of_other_outputs_are_refused(tmp_path):
    runner = semi_supervised(tmp_path, 1)
    hook = SemiSupervisedHook(tmp_path)
    runner.model.outputs = {}
    with pytest.raises(UsageError, match="softmax over the classes of each pixel"):
        hook.before_train(runner)


def test_strong_views_differ_and_are_drawn_by_the_generator():
    images = torch.rand(4, 3, 20, 30) * 255
    views = [strong_view(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert all(float(view.min()) >= 0 and float(view.max()) <= 255.001 for view in views)
    assert strong_view(torch.rand(1, 5, 8, 8), torch.Generator()).shape == (1, 5, 8, 8)


def test_cutmix_replaces_a_rectangle_of_the_published_sizes():
    masks = cutmix_mask(400, (50, 80), torch.Generator().manual_seed(0))
    shares = masks.flatten(1).float().mean(1)
    chosen = masks[shares > 0]
    assert 150 < len(chosen) < 250
    assert shares.max() <= 0.4
    for mask in chosen[:20]:
        rows, columns = mask.any(1), mask.any(0)
        assert int(mask.sum()) == int(rows.sum()) * int(columns.sum())
