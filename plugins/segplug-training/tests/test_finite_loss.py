"""`FiniteLossHook` ends a run at a loss that is not finite, and nothing of it is saved."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segkernel import Runner, hookimpl
from segkernel.engine import LocalEngine
from segkernel.errors import TrainingError
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.sample import LabelMap, Sample
from segkernel.testing.toys import ToySegmentor, toy_batch
from segplug_training.finite_loss import FiniteLossHook


class Stripes:
    """Eight images of four classes."""

    classes = ("a", "b", "c", "d")
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        labels = np.arange(16, dtype=np.uint8).repeat(16).reshape(16, 16) // 4
        return Sample({"seg": LabelMap(labels)}, {"name": f"image_{index}"}, np.full((16, 16, 3), 40 * index, np.uint8))


class Spoil:
    """Makes the weights nan after an iteration."""

    @hookimpl
    def after_train_iteration(self, run):
        if run.iteration == 2:
            for parameter in run.model.parameters():
                parameter.data.fill_(float("nan"))


def train(work_dir, *hooks):
    model = ToySegmentor()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    given = {"train": Stripes(), "optimizer": optimizer, "iterations": 6, "engine": LocalEngine("cpu")}
    Runner(model, hooks=[Spoil(), *hooks], work_dir=work_dir, **given).train()


def test_every_run_has_it_and_ends_with_the_names_of_the_batch(tmp_path):
    with pytest.raises(TrainingError, match=r"nan at iteration 3; nothing was saved(.|\n)*image_"):
        train(tmp_path, CheckpointHook(interval=5))
    assert not list((tmp_path / "checkpoints").glob("*.pt"))


def test_the_last_good_checkpoint_is_named_and_no_bad_one_written(tmp_path):
    with pytest.raises(TrainingError, match=r"the last good checkpoint is .*iter_0000002\.pt"):
        train(tmp_path, CheckpointHook(interval=1))
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt")) == [
        "iter_0000001.pt",
        "iter_0000002.pt",
    ]


@pytest.mark.parametrize("moment", ["before_validation", "save_checkpoint", "after_train"])
def test_on_a_device_losses_are_looked_at_once_in_many_and_before_they_matter(tmp_path, moment):
    run = SimpleNamespace(engine=SimpleNamespace(device=torch.device("cuda")), iteration=0, work_dir=tmp_path)
    hook = FiniteLossHook(interval=4)
    for run.iteration in (1, 2, 3):
        hook.after_train_iteration(run, [toy_batch(0)], {"loss": torch.tensor(float("inf"))})
    with pytest.raises(TrainingError, match="inf at iteration 1"):
        getattr(hook, moment)(run)
    for run.iteration in (4, 5, 6):
        hook.after_train_iteration(run, [toy_batch(0)], {"loss": torch.tensor(1.0)})
    run.iteration = 7
    with pytest.raises(TrainingError, match="nan at iteration 7"):
        hook.after_train_iteration(run, [toy_batch(0)], {"loss": torch.tensor(float("nan"))})
