"""``seg-kernel find-lr``: the loss over a learning rate that grows from step to step (the range test of L. Smith).

seg-kernel find-lr my.yaml --out lr.png
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkernel.cli import CONFIG, OVERRIDES
from segkernel.errors import TrainingError, UsageError
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.config import Config
    from segkernel.hookspecs import Run

SMOOTHING = 0.9
"""Decay of the exponential average of the losses."""
DIVERGED = 4.0
"""The test ends at a loss this many times the lowest."""


@click.command("find-lr")
@CONFIG
@OVERRIDES
@click.option("--first", default=1e-7, show_default=True, type=click.FloatRange(0, min_open=True), help="First rate.")
@click.option("--last", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Last rate.")
@click.option("--steps", default=100, show_default=True, type=click.IntRange(10), help="Optimiser steps at most.")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Draw the curve.")
def command(config: str, overrides: tuple[str, ...], first: float, last: float, steps: int, out: Path | None) -> None:
    """Train CONFIG for some steps with an increasing learning rate, and report where the loss falls fastest.

    Nothing of the training is kept. Other parameter groups keep their ratio to the first. The rate depends on the
    weights that training starts from, so pretrained ones are loaded, and downloaded if needed.

    \b
    Examples:
      seg-kernel find-lr my.yaml --out lr.png
    """
    from segkernel import load_config
    from segplug_training.plot import new_figure, write_figure

    figure = new_figure((6.4, 4.2)) if out else None  # a missing matplotlib is reported before training
    rates, losses = range_test(load_config(config, overrides), first, last, steps)
    curve = smooth(losses)
    best, lowest = suggestion(rates, curve), _lowest(curve)
    click.echo(f"{len(rates)} steps, rates {rates[0]:.3g} to {rates[-1]:.3g}, lowest loss at {rates[lowest]:.3g}")
    click.echo(f"the loss falls fastest at  optim.optimizer.lr={best:.2g}")
    if figure is not None and out is not None:
        axes = figure.add_subplot()
        axes.plot(rates, losses, color="C0", alpha=0.3)
        axes.plot(rates, curve, color="C0", label="smoothed")
        axes.axvline(best, color="C3", linestyle="--", label=f"{best:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(None, 1.1 * max(curve[: lowest + 1])))
        axes.legend()
        write_figure(figure, out)
        click.echo(f"wrote {out}")


def range_test(config: Config, first: float, last: float, steps: int) -> tuple[list[float], list[float]]:
    """Return the learning rates and losses of the steps.

    Raises:
        UsageError: When ``last`` is not above ``first``.
        TrainingError: When the loss is not finite within the first steps.
    """
    from segplug_training.trial import make_trial

    if not last > first:
        raise UsageError(f"--last {last:g} is not above --first {first:g}")
    hook = GrowingRate(first, last, steps)
    with tempfile.TemporaryDirectory() as folder:
        runner = make_trial(config, Path(folder) / "run", steps, hook)
        try:
            runner.train()
        finally:
            runner.close()
    if len(hook.losses) < 3:
        raise TrainingError(f"the loss is not finite, or explodes, at a rate of {first:g} already: lower --first")
    return hook.rates, hook.losses


class GrowingRate:
    """Sets the rate of each step, from ``first`` to ``last`` by equal factors, and records the losses."""

    priority = Priority.VERY_LOW

    def __init__(self, first: float, last: float, steps: int) -> None:
        self.first, self.factor = first, (last / first) ** (1 / (steps - 1))
        self.rates: list[float] = []
        self.losses: list[float] = []

    @hookimpl
    def before_train_iteration(self, run: Run) -> None:
        groups = run.optimizer.param_groups if run.optimizer is not None else []
        self._rate = self.first * self.factor**run.iteration
        for group in groups:
            group["lr"] = self._rate * group["initial_lr"] / (groups[0]["initial_lr"] or 1.0)

    @hookimpl
    def after_train_iteration(self, run: Run, losses: Mapping[str, Any]) -> None:
        (loss,) = run.engine.agree([float(losses["loss"])])
        if not math.isfinite(loss):
            run.stop("the loss is not finite")
            return
        self.rates.append(self._rate)
        self.losses.append(loss)
        curve = smooth(self.losses)
        if loss > 0 and len(curve) > 10 and curve[-1] > DIVERGED * max(min(curve), 1e-12):
            run.stop("the loss has diverged")


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average, bias-corrected."""
    curve, average = [], 0.0
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        curve.append(average / (1 - SMOOTHING**count))
    return curve


def suggestion(rates: Sequence[float], curve: Sequence[float]) -> float:
    """Return the rate before the lowest loss where the curve is steepest; if it never falls, a tenth of the lowest's.

    The slope is taken over a tenth of the steps, and the first tenth is left out: single steps are noisy.
    """
    lowest, width = _lowest(curve), max(len(curve) // 20, 1)
    slopes = [(curve[i + width] - curve[i - width], i) for i in range(max(len(curve) // 10, width), lowest - width + 1)]
    slope, place = min(slopes, default=(0.0, 0))
    return rates[place] if slope < 0 else rates[lowest] / 10


def _lowest(curve: Sequence[float]) -> int:
    return min(range(len(curve)), key=curve.__getitem__)
