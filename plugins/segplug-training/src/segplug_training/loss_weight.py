"""`LossWeightHook`: the weight of a loss changes over training.

hooks:
  - {type: LossWeightHook, loss: "decode_head.loss_decode.1", start: 0.0, end: 1.0, begin: 1000, until: 5000}
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from segkernel.annotations import NonNegative, NonNegativeInt, PositiveInt
from segkernel.errors import UsageError, suggest
from segkernel.hookspecs import Priority, hookimpl
from segplug_training.begin_check import check_begin

if TYPE_CHECKING:
    from segkernel.hookspecs import Run


class LossWeightHook:
    """Set the ``loss_weight`` of a loss from ``start`` at iteration ``begin`` to ``end`` at iteration ``until``.

    Before and after, it has the first and the last value. It depends on the iteration only, so that a resumed run has
    the weights of one that was not interrupted; after training the loss has its own weight again.

    Args:
        loss: Name of the loss in the model: ``decode_head.loss_decode``, with its number where there are several.
        end: Last weight.
        until: Iteration of the last weight.
        start: First weight.
        begin: Iteration, counted from 0, until which the first weight holds.
        shape: Between the two: ``linear``, ``cosine`` with a slow start and end, or ``step``, all at once at ``until``.
        interval: Iterations between two changes; a compiled model is compiled again for each.
    """

    priority = Priority.HIGH
    conformance: ClassVar = {"loss": "decode_head.loss_decode", "end": 0.5, "until": 2}

    def __init__(
        self,
        loss: str,
        end: NonNegative,
        until: PositiveInt,
        start: NonNegative = 0.0,
        begin: NonNegativeInt = 0,
        shape: Literal["linear", "cosine", "step"] = "linear",
        interval: PositiveInt = 1,
    ) -> None:
        if until <= begin:
            raise UsageError(f"LossWeightHook: until {until} must be greater than begin {begin}")
        self.loss, self.start, self.end, self.begin, self.until = loss, start, end, begin, until
        self.shape, self.interval = shape, interval
        self._own: float | None = None

    @hookimpl
    def before_train(self, run: Run) -> None:
        self._own = self._find(run.model).loss_weight  # report a wrong name now
        check_begin(run, "LossWeightHook", "begin", self.begin, counted_from=0)

    @hookimpl
    def before_train_iteration(self, run: Run) -> None:
        self._find(run.model).loss_weight = self.weight(run.iteration)

    @hookimpl
    def after_train(self, run: Run) -> None:
        if self._own is not None:
            self._find(run.model).loss_weight = self._own

    def weight(self, iteration: int) -> float:
        """Return the weight of an iteration, counted from 0."""
        iteration -= iteration % self.interval
        share = min(1.0, max(0.0, (iteration - self.begin) / (self.until - self.begin)))
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        elif self.shape == "step":
            share = math.floor(share)
        return self.start + share * (self.end - self.start)

    def _find(self, model: Any) -> Any:
        """Return the loss.

        Raises:
            UsageError: The model has no such loss.
        """
        losses = [name for name, module in model.named_modules() if hasattr(module, "loss_weight")]
        if self.loss not in losses:
            near = suggest(self.loss, losses) or f"losses: {', '.join(losses) or 'none'}"
            raise UsageError(f"LossWeightHook: the model has no loss {self.loss!r}; {near}")
        return model.get_submodule(self.loss)
