"""Learning-rate and batch-size finder: on hand-made curves and limits, and in a toy run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from segkernel import load_config
from segkernel.errors import TrainingError, UsageError
from segkernel.testing.toys import ToySegmentor
from segplug_training import find_batch_size, find_lr
from segplug_training.find_batch_size import Trial, search
from segplug_training.find_lr import range_test, smooth, suggestion
from segplug_training.plot import NoMatplotlib
from segplug_training.trial import make_trial

SQUARES = {"type": "command_toys:Squares"}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def config(**changes):
    given = {
        "model": {"type": "segkernel.testing.toys:ToySegmentor"},
        "data": {"train": SQUARES, "val": SQUARES, "workers": 0},
        "optim": {"optimizer": {"type": "SGD", "lr": 0.01}, "batch_size": 2},
        "schedule": {"epochs": 90, "val_interval": 1, "lr": [{"type": "ConstantLR", "factor": 0.1}]},
        "engine": {"type": "CUDAEngine", "device": "cpu"},
    }
    return load_config({**given, **changes})


def test_the_suggested_rate_is_where_a_hand_made_curve_falls_fastest():
    rates = [10 ** (-6 + 6 * i / 99) for i in range(100)]
    falls_at = 1e-3
    curve = [1 / (1 + math.exp(4 * math.log10(rate / falls_at))) + max(rate - 0.1, 0) * 10 for rate in rates]
    assert suggestion(rates, curve) == pytest.approx(falls_at, rel=0.2)
    assert suggestion(rates, sorted(curve)) == rates[0] / 10  # never falls


def test_the_smoothed_curve_has_no_bias():
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth([1.0, 3.0])[1] == pytest.approx((0.9 * 1 + 3) / 1.9)


def test_rates_grow_by_equal_factors_regardless_of_the_schedule():
    rates, losses = range_test(config(), 1e-4, 1e-1, 10)
    assert rates == pytest.approx([1e-4 * 10 ** (i / 3) for i in range(10)])
    assert len(losses) == 10
    assert losses[-1] < losses[0]


def test_groups_keep_their_ratio(tmp_path):
    rates = []
    hook = find_lr.GrowingRate(1e-3, 1e-2, 2)
    groups = {"custom_keys": {"backbone": {"lr_mult": 0.1}}}
    optim = {"optimizer": {"type": "SGD", "lr": 0.01}, "batch_size": 2, "paramwise": groups}
    runner = make_trial(config(optim=optim), tmp_path / "run", 2, hook)
    runner.engine.step = lambda: rates.append(sorted(group["lr"] for group in runner.optimizer.param_groups))
    runner.train()
    runner.close()
    ratios = [high / low for low, high in rates]
    assert ratios == pytest.approx([10, 10])
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_loss_that_explodes_ends_the_test_and_one_that_does_at_once_is_an_error():
    rates, losses = range_test(config(), 1e-3, 1e6, 60)
    assert 10 < len(rates) < 60
    assert all(map(math.isfinite, losses))
    with pytest.raises(TrainingError, match="lower --first"):
        range_test(config(), 1e30, 1e35, 20)
    with pytest.raises(UsageError, match="not above"):
        range_test(config(), 1.0, 0.1, 20)


def write(tmp_path, **changes):
    path = tmp_path / "toy.yaml"
    path.write_text(config(**changes).to_yaml())
    return str(path)


@pytest.mark.parametrize(
    ("finder", "options", "said"),
    [
        (find_lr, ["--steps", 12], "optim.optimizer.lr="),
        (find_batch_size, ["--most", 2], "tried (--most): data.micro_batch=2"),
    ],
)
def test_commands_draw_and_say_what_is_missing_before_they_train(tmp_path, monkeypatch, finder, options, said):
    monkeypatch.chdir(tmp_path)
    words = [write(tmp_path), *map(str, options), "--out", "curve.png"]
    done = CliRunner().invoke(finder.command, words)
    assert done.exception is None, done.output
    assert said in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "toy.yaml"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("segplug_training.trial.make_trial", None)
    assert isinstance(CliRunner().invoke(finder.command, words).exception, NoMatplotlib)


@pytest.mark.parametrize(("limit", "most"), [(0, 64), (1, 64), (5, 64), (23, 64), (64, 64), (100, 40), (3, 3)])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_search_finds_the_limit(tmp_path, monkeypatch, kind, limit, most):
    seen = []

    def tried(runner, size):
        seen.append(size)
        return Trial(size, size <= limit, 1.0)

    monkeypatch.setattr(find_batch_size, "_try", tried)
    monkeypatch.setattr(find_batch_size, "limited", lambda device, memory: nullcontext())
    runner = make_trial(config(), tmp_path / "run", 1)
    runner.engine.device = torch.device(kind)
    trials = search(runner, most)
    largest = max((each.size for each in trials if each.fits), default=0)
    wanted = min(limit, most)
    if kind == "cuda":  # within an eighth
        assert wanted - wanted // 8 <= largest <= wanted
    else:  # the power of two below, and nothing is tried after a failure
        assert largest in (wanted, 2 ** (wanted.bit_length() - 1) if wanted else 0)
        assert sum(size > limit for size in seen) <= 1
    assert len(seen) == len(set(seen)) <= 14
    assert max(seen) <= most


class PooledNorm(ToySegmentor):
    """Has batch norm behind global pooling: one value per channel and image."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(3))

    def loss(self, images, targets):
        return {**super().loss(images, targets), "loss_pooled": self.pooled(images).sum()}


def test_batch_norm_of_single_values_begins_at_two_samples_and_loads_no_weights(tmp_path):
    model = {"type": "test_finders:PooledNorm"}
    trial = make_trial(config(model=model, load_from="missing.pt"), tmp_path / "run", 1, workers=0, weights=False)
    assert [(each.size, each.fits) for each in search(trial, 4)] == [(2, True), (4, True)]
    with pytest.raises(UsageError, match="--most 2"):
        search(trial, 1)


LIMITED = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import torch
from test_finders import SQUARES, config, make_trial, search
torch.set_num_threads(1)
large = {{"train": {{**SQUARES, "side": 512}}, "workers": 0}}
trials = search(make_trial(config(data=large), Path({out!r}), 1), 64, 48 << 20)
print(*(each.fits for each in trials))
print(torch.zeros(64 << 20).sum().item())  # 256 MB: the limit is gone
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -d")
def test_a_process_with_little_memory_finds_its_limit_and_lives(tmp_path):
    # In a process of its own: oneDNN may not recover from a lack of memory.
    script = LIMITED.format(folder=str(Path(__file__).parent), out=str(tmp_path / "run"))
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # the stack of another thread may not fit
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=alone)
    fits, zero = done.stdout.splitlines()
    assert fits.split() == ["True"] * (len(fits.split()) - 1) + ["False"]
    assert zero == "0.0"
