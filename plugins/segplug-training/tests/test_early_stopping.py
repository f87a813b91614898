"""`EarlyStoppingHook` stops at the expected point of hand-made curves."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from segkernel.errors import UsageError
from segkernel.hooks.checkpoint import CheckpointHook
from segplug_training.early_stopping import EarlyStoppingHook


def stops_at(hook, curve, monitor="mIoU"):
    """Return the iteration of the validation that ended training; there is one every ten."""
    run = SimpleNamespace(stopped=None)
    run.stop = lambda reason: setattr(run, "stopped", run.stopped or run.iteration)
    for index, value in enumerate(curve, 1):
        run.iteration = 10 * index
        hook.after_validation(run, {monitor: value})
    return run.stopped


@pytest.mark.parametrize(
    ("arguments", "curve", "wanted"),
    [
        ({"patience": 2}, [0.1, 0.2, 0.15, 0.2, 0.5], 40),
        ({"patience": 2}, [0.1, 0.2, 0.15, 0.3, 0.25], None),
        ({"patience": 2, "min_delta": 0.05}, [0.1, 0.12, 0.14, 0.2], 30),
        ({"patience": 2, "min_delta": 0.05}, [0.1, 0.14, 0.16, 0.2], None),  # from the best on, not from the last
        ({"patience": 2, "warmup": 20}, [0.9, 0.8, 0.1, 0.05, 0.04], 50),
        ({"patience": 1, "rule": "less"}, [0.5, 0.4, 0.41], 30),
        ({"patience": 2}, [math.nan, math.nan], 20),
        ({"patience": 2}, [math.nan, 0.1, math.nan, 0.2], None),
        ({"stopping_threshold": 0.5}, [0.1, 0.5, 0.6], 20),
        ({"stopping_threshold": 0.5, "rule": "less"}, [0.9, math.nan, 0.4], 30),
    ],
)
def test_it_stops_at_the_expected_point_of_the_curve(arguments, curve, wanted):
    assert stops_at(EarlyStoppingHook(**arguments), curve) == wanted


@pytest.mark.parametrize("monitor", ["loss", "decode.loss_ce", "RMSE", "depth.abs_rel"])
def test_lower_losses_and_errors_are_better(monitor):
    assert stops_at(EarlyStoppingHook(monitor, patience=1), [3.0, 2.0, 2.5], monitor) == 30


def test_higher_is_better_for_a_class_named_like_an_error():
    assert stops_at(EarlyStoppingHook("IoU.piece", patience=1), [0.3, 0.2], "IoU.piece") == 20


def test_the_count_is_resumed():
    first, second = EarlyStoppingHook(patience=3), EarlyStoppingHook(patience=3)
    stops_at(first, [0.5, 0.4])
    second.load_state_dict(first.state_dict())
    assert stops_at(second, [0.45, 0.44]) == 20


def test_a_run_ends_with_a_checkpoint(make_runner):
    hooks = EarlyStoppingHook("loss", patience=2, min_delta=10.0), CheckpointHook(interval=100)
    runner = make_runner(*hooks, iterations=20, val_interval=1)
    runner.train()
    assert [path.name for path in (runner.work_dir / "checkpoints").glob("iter*.pt")] == ["iter_0000003.pt"]


def test_a_missing_metric_is_an_error_with_similar_names(make_runner):
    with pytest.raises(UsageError, match="no metric 'los'; did you mean 'loss'"):
        make_runner(EarlyStoppingHook("los")).train()
