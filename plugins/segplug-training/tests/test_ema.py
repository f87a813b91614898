"""`EMAHook` computes its averages as documented, and the model has them only during validation and saving."""

from __future__ import annotations

import itertools

import pytest
import torch

from segkernel import hookimpl
from segkernel.checkpoint import load
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.hookspecs import Priority
from segplug_training.ema import SOURCE, EMAHook


class Watch:
    """Notes the weights after every iteration and in every validation."""

    priority = Priority.VERY_LOW

    def __init__(self) -> None:
        self.trained, self.validated = [], {}

    @hookimpl
    def after_train_iteration(self, run):
        self.trained.append(weights_of(run.model))

    @hookimpl
    def after_validation(self, run):
        self.validated[run.iteration] = weights_of(run.model)


def weights_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


def flat(state):
    return torch.cat([value.flatten() for value in state.values()])


def exponential(values, momentum=0.25):
    average = values[0]
    for value in values[1:]:
        average = (1 - momentum) * average + momentum * value
    return average


def annealed(values, momentum=0.25, gamma=2):
    average = values[0]
    for step, value in enumerate(values[1:], 1):
        share = max(momentum, gamma / (gamma + step))
        average = (1 - share) * average + share * value
    return average


def mean(values):
    return torch.stack(values).mean(0)


@pytest.mark.parametrize(
    ("ema_type", "recurrence"),
    [("ExponentialMovingAverage", exponential), ("MomentumAnnealingEMA", annealed), ("StochasticWeightAverage", mean)],
)
def test_validation_and_checkpoints_have_the_average_and_training_the_weights(make_runner, ema_type, recurrence):
    plain, watch = Watch(), Watch()
    make_runner(plain, folder="plain").train()
    runner = make_runner(EMAHook(ema_type, momentum=0.25, gamma=2), CheckpointHook(best="loss"), watch)
    runner.train()
    assert all(torch.equal(a, b) for a, b in zip(watch.trained, plain.trained, strict=True))
    for iteration, seen in watch.validated.items():
        wanted = recurrence(watch.trained[:iteration])
        torch.testing.assert_close(seen, wanted)
        saved = load(runner.work_dir / "checkpoints" / f"iter_{iteration:07d}.pt")
        assert torch.equal(flat(saved["state_dict"]), seen)
        assert torch.equal(flat(saved[SOURCE]), watch.trained[iteration - 1])
    assert runner.best_checkpoint().name.startswith("best_loss")
    best = load(runner.best_checkpoint())
    assert torch.equal(flat(best["state_dict"]), watch.validated[best["iteration"]])
    assert torch.equal(weights_of(runner.model), watch.validated[6]), "at the end the model has the average"


def test_interval_and_beginning(make_runner):
    watch = Watch()
    make_runner(EMAHook(momentum=0.5, interval=2, begin_iter=2), watch, val_interval=1).train()
    w, v = watch.trained, watch.validated
    assert torch.equal(v[1], w[0])  # nothing is averaged before iteration 2
    assert torch.equal(v[2], w[1])
    assert torch.equal(v[3], w[1])
    torch.testing.assert_close(v[4], (w[1] + w[3]) / 2)
    torch.testing.assert_close(v[6], ((w[1] + w[3]) / 2 + w[5]) / 2)


def test_epochs_count_from_one(make_runner):
    watch = Watch()
    make_runner(EMAHook(momentum=0.5, begin_epoch=2), watch, val_interval=1).train()  # four iterations an epoch
    assert torch.equal(watch.validated[5], watch.trained[4])
    torch.testing.assert_close(watch.validated[6], (watch.trained[4] + watch.trained[5]) / 2)


@pytest.mark.parametrize("resume_hooks", [(EMAHook,), ()], ids=["with the hook", "without it"])
def test_a_resumed_run_continues_from_the_trained_weights(make_runner, resume_hooks):
    hook = EMAHook("MomentumAnnealingEMA", gamma=2)
    whole, watch = make_runner(hook, CheckpointHook(), folder="whole"), Watch()
    whole.train()
    again = make_runner(*(kind("MomentumAnnealingEMA", gamma=2) for kind in resume_hooks), watch, folder="again")
    again.resume(whole.work_dir / "checkpoints" / "iter_0000002.pt")
    again.train()
    last = load(whole.work_dir / "checkpoints" / "iter_0000006.pt")
    assert torch.equal(watch.trained[-1], flat(last[SOURCE]))
    assert torch.equal(weights_of(again.model), flat(last["state_dict"])) == bool(resume_hooks)


def test_an_error_in_validation_leaves_the_trained_weights(make_runner):
    class Fail:
        @hookimpl
        def after_prediction(self):
            raise ArithmeticError

    watch = Watch()
    runner = make_runner(EMAHook(momentum=0.25), watch, Fail())
    with pytest.raises(ArithmeticError):
        runner.train()
    assert torch.equal(weights_of(runner.model), watch.trained[-1])


def test_validating_and_saving_after_training_keep_the_average(make_runner):
    runner = make_runner(hook := EMAHook(momentum=0.25))
    runner.train()
    averaged = weights_of(runner.model)
    runner.validate()
    saved = load(runner.save(runner.work_dir / "own.pt"))
    assert torch.equal(weights_of(runner.model), averaged)
    assert torch.equal(flat(saved["state_dict"]), averaged)
    hook.restore(runner)
    assert torch.equal(flat(saved[SOURCE]), weights_of(runner.model))


def test_running_statistics_are_averaged_on_request():
    model = torch.nn.BatchNorm1d(2)
    taken, averaged = EMAHook(momentum=0.5), EMAHook(momentum=0.5, update_buffers=True)
    for value, hook in itertools.product((0.0, 1.0), (taken, averaged)):
        model.running_mean.fill_(value)
        hook.update(model)
    assert "running_mean" not in taken._average
    assert averaged._average["running_mean"].tolist() == [0.5, 0.5]
