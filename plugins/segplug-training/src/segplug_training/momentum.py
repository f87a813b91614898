"""Momentum schedules, each following the learning-rate schedule that it is named after.

    schedule:
      lr: [{type: PolyLR, power: 0.9}, {type: LinearMomentum, start_factor: 0.9, end: 1000}]

The schedules change an optimiser's ``momentum``, or the first of its ``betas``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from segkernel.errors import UsageError
from segkernel.schedules import Schedule
from segplug_training.schedules import (
    ConstantLR,
    CosineAnnealingLR,
    CosineRestartLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    PolyLR,
    StepLR,
)


class MomentumSchedule(Schedule):
    """Changes the momentum of each parameter group instead of its rate."""

    conformance_exceptions: ClassVar = {"rates": "it changes the momentum, not the rate"}

    def update(self, group: dict[str, Any], i: int) -> None:
        """Set the momentum of a parameter group at the schedule's iteration, or epoch, ``i``.

        Raises:
            UsageError: When the optimiser has no momentum.
        """
        if "betas" in group:
            first, *others = group["betas"]
            start = group.setdefault("initial_betas", group["betas"])[0]
            group["betas"] = (self.rate(first, start, i), *others)
        elif "momentum" in group:
            start = group.setdefault("initial_momentum", group["momentum"])
            group["momentum"] = self.rate(group["momentum"], start, i)
        else:
            raise UsageError(f"{type(self).__name__}: the optimizer has no momentum and no betas")


class ConstantMomentum(MomentumSchedule, ConstantLR):
    """Multiply the momentum by ``factor`` until the last iteration, which restores it."""


class LinearMomentum(MomentumSchedule, LinearLR):
    """Change linearly from ``start_factor`` to ``end_factor`` times the momentum."""


class StepMomentum(MomentumSchedule, StepLR):
    """Multiply the momentum by ``gamma`` every ``step_size`` iterations."""


class MultiStepMomentum(MomentumSchedule, MultiStepLR):
    """Multiply the momentum by ``gamma`` at each of ``milestones``."""


class ExponentialMomentum(MomentumSchedule, ExponentialLR):
    """Multiply the momentum by ``gamma`` in every iteration."""


class CosineAnnealingMomentum(MomentumSchedule, CosineAnnealingLR):
    """Cosine annealing to ``eta_min``, or to ``eta_min_ratio`` times the momentum."""


class CosineRestartMomentum(MomentumSchedule, CosineRestartLR):
    """Cosine annealing with warm restarts."""


class PolyMomentum(MomentumSchedule, PolyLR):
    """Decay to ``eta_min`` as (1 - i / length) ** power."""
