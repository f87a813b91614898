"""A learning rate schedule: ``schedule.lr: [{type: MyModelSchedule}]``."""

from __future__ import annotations

from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.schedules import Schedule, ScheduleArguments


class MyModelSchedule(Schedule):
    """Halve the learning rate at regular intervals.

    Args:
        every: Iterations between two cuts.
    """

    def __init__(self, every: PositiveInt = 5, **kwargs: Unpack[ScheduleArguments]) -> None:
        super().__init__(**kwargs)
        self.every = every

    def rate(self, lr: float, base: float, i: int) -> float:
        """Return the rate of iteration ``i`` of the schedule."""
        return base / 2 ** (i // self.every)
