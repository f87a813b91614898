"""`LossWeightHook` changes the weight of a loss over the iterations."""

from __future__ import annotations

import pytest
from torch import nn

from segkernel import hookimpl
from segkernel.errors import UsageError
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.nn import CrossEntropyLoss
from segkernel.testing.toys import ToySegmentor
from segplug_training.loss_weight import LossWeightHook


class Weights:
    """Notes the weight of each iteration."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def after_train_iteration(self, run):
        self.seen.append(round(run.model.losses[1].loss_weight, 6))


class WithLosses(ToySegmentor):
    """A toy with two losses of its own."""

    def __init__(self):
        super().__init__()
        self.losses = nn.ModuleList([CrossEntropyLoss(), CrossEntropyLoss(loss_weight=0.4)])


def hook(**more):
    return LossWeightHook(**{"loss": "losses.1", "end": 1.0, "until": 4, **more})


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ({}, [0, 0.25, 0.5, 0.75, 1, 1]),
        ({"begin": 2}, [0, 0, 0, 0.5, 1, 1]),
        ({"start": 1.0, "end": 0.0, "interval": 2}, [1, 1, 0.5, 0.5, 0, 0]),
        ({"shape": "step"}, [0, 0, 0, 0, 1, 1]),
        ({"shape": "cosine"}, [0, 0.146447, 0.5, 0.853553, 1, 1]),
    ],
)
def test_the_weight_follows_the_iterations_and_is_restored(make_runner, arguments, weights):
    model, seen = WithLosses(), Weights()
    make_runner(hook(**arguments), seen, model=model).train()
    assert seen.seen == weights
    assert model.losses[1].loss_weight == 0.4


def test_a_resumed_run_has_the_same_weights(make_runner):
    first = make_runner(hook(), CheckpointHook(), folder="first", model=WithLosses())
    first.train()
    again = make_runner(hook(), seen := Weights(), folder="again", model=WithLosses())
    again.resume(first.work_dir / "checkpoints" / "iter_0000002.pt")
    again.train()
    assert seen.seen == [0.5, 0.75, 1, 1]


def test_wrong_names_and_lengths_are_refused(make_runner):
    with pytest.raises(UsageError, match=r"no loss 'losses\.2'.*losses\.1"):
        make_runner(hook(loss="losses.2"), model=WithLosses()).train()
    with pytest.raises(UsageError, match="until 4 must be greater than begin 4"):
        hook(begin=4)
    with pytest.raises(UsageError, match="never reached"):
        make_runner(hook(begin=50, until=60), model=WithLosses()).train()
