"""`EarlyStoppingHook`: ends training when a validation metric stops improving.

hooks:
  - {type: EarlyStoppingHook, monitor: mIoU, patience: 5}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from segkernel.annotations import NonNegative, NonNegativeInt, PositiveInt
from segkernel.errors import UsageError, suggest
from segkernel.hooks.checkpoint import ERRORS
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

Rule = Literal["greater", "less"]


def rule_of(monitor: str) -> Rule:
    """Return which values of a metric are better: smaller ones for a loss or an error."""
    is_error = any("loss" in part or part in ERRORS for part in monitor.lower().split("."))
    return "less" if is_error else "greater"


def improves(value: float, best: float | None, rule: Rule, min_delta: float = 0.0) -> bool:
    """Whether ``value`` is better than ``best`` by more than ``min_delta``, or is the first; never for nan."""
    if math.isnan(value):
        return False
    return best is None or (value - best > min_delta if rule == "greater" else best - value > min_delta)


class EarlyStoppingHook:
    """Stop after ``patience`` validations in a row without improvement; a checkpoint is saved.

    Args:
        monitor: Name of the validation metric.
        rule: Whether greater or smaller values are better; None is ``less`` for losses and errors.
        patience: Validations without improvement after which training ends.
        min_delta: Minimum change that counts as an improvement, in the metric's unit.
        warmup: Iterations whose validations do not count.
        stopping_threshold: Training ends when the metric reaches this value.
    """

    priority = Priority.LOW

    def __init__(
        self,
        monitor: str = "mIoU",
        rule: Rule | None = None,
        patience: PositiveInt = 5,
        min_delta: NonNegative = 0.0,
        warmup: NonNegativeInt = 0,
        stopping_threshold: float | None = None,
    ) -> None:
        self.monitor, self.rule = monitor, rule or rule_of(monitor)
        self.patience, self.min_delta, self.warmup = patience, min_delta, warmup
        self.stopping_threshold = stopping_threshold
        self.best: float | None = None
        self.count = 0

    @hookimpl
    def after_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        if self.monitor not in metrics:
            near = suggest(self.monitor, metrics)
            raise UsageError(f"EarlyStoppingHook: validation has no metric {self.monitor!r}; {near}")
        value = metrics[self.monitor]
        if self._is_enough(value):
            run.stop(f"{self.monitor} is {value:.4g}, which reaches stopping_threshold")
        if run.iteration <= self.warmup:
            return
        if improves(value, self.best, self.rule, self.min_delta):
            self.best, self.count = value, 0
        else:
            self.count += 1
        if self.count >= self.patience:
            best = "was always nan" if self.best is None else f"did not improve on {self.best:.4g}"
            run.stop(f"{self.monitor} {best} in {self.count} validations")

    def _is_enough(self, value: float) -> bool:
        enough = self.stopping_threshold
        return enough is not None and (value == enough or improves(value, enough, self.rule))

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.count = state["best"], state["count"]
