"""`ReduceOnPlateauLR`: reduces the rate when a validation metric stops improving.

schedule:
  lr: [{type: ReduceOnPlateauLR, monitor: mIoU, factor: 0.5, patience: 3}]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import Unpack

from segkernel.annotations import NonNegative, NonNegativeInt, Positive
from segkernel.errors import UsageError, suggest
from segkernel.hookspecs import hookimpl
from segkernel.schedules import Schedule, ScheduleArguments
from segplug_training.early_stopping import Rule, improves, rule_of

if TYPE_CHECKING:
    from segkernel.hookspecs import Run


class ReduceOnPlateauLR(Schedule):
    """Multiply the rate by ``factor`` after more than ``patience`` validations without improvement.

    It applies from the iteration after such a validation on, to the rate of the schedules before it.

    Args:
        monitor: Name of a validation metric.
        rule: Whether greater or smaller values are better; None is ``less`` for losses and errors.
        factor: Factor on the rate, from 0 to 1.
        patience: Validations without improvement that are tolerated.
        threshold: Minimum change that counts as an improvement.
        threshold_rule: Whether ``threshold`` is a share of the best value or a difference.
        cooldown: Validations after a reduction that do not count.
        min_value: Lower bound of the rate.
        eps: Reductions by this or less are skipped.
    """

    conformance_exceptions: ClassVar = {"rates": "it depends on validations"}

    def __init__(
        self,
        monitor: str = "loss",
        rule: Rule | None = None,
        factor: Positive = 0.1,
        patience: NonNegativeInt = 10,
        threshold: NonNegative = 1e-4,
        threshold_rule: Literal["rel", "abs"] = "rel",
        cooldown: NonNegativeInt = 0,
        min_value: NonNegative = 0.0,
        eps: NonNegative = 1e-8,
        **kwargs: Unpack[ScheduleArguments],
    ) -> None:
        super().__init__(**kwargs)
        if factor >= 1:
            raise UsageError(f"ReduceOnPlateauLR: factor {factor} must be less than 1")
        if self.by_epoch:
            raise UsageError("ReduceOnPlateauLR counts validations; by_epoch has no meaning here")
        self.monitor, self.rule, self.factor, self.patience = monitor, rule or rule_of(monitor), factor, patience
        self.threshold, self.relative = threshold, threshold_rule == "rel"
        self.cooldown, self.min_value, self.eps = cooldown, min_value, eps
        self.best: float | None = None
        self.bad = self.cooling = 0
        self.reduced_at: list[int] = []

    def rate(self, lr: float, base: float, i: int) -> float:
        lower = max(lr * self.factor, self.min_value)
        return lower if self.begin + i in self.reduced_at and lr - lower > self.eps else lr

    @hookimpl
    def after_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Record the iterations at which the rate is reduced, from which a resumed run recomputes its rates."""
        if self.monitor not in metrics:
            near = suggest(self.monitor, metrics)
            raise UsageError(f"ReduceOnPlateauLR: validation has no metric {self.monitor!r}; {near}")
        value = metrics[self.monitor]
        delta = self.threshold * abs(self.best or 0.0) if self.relative else self.threshold
        if improves(value, self.best, self.rule, delta):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            self.cooling, self.bad = self.cooldown, 0
            self.reduced_at.append(run.iteration + 1)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "bad": self.bad, "cooling": self.cooling, "reduced_at": list(self.reduced_at)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.bad, self.cooling = state["best"], state["bad"], state["cooling"]
        self.reduced_at = list(state["reduced_at"])
