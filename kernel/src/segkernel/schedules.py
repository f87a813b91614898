"""Base class of learning-rate schedules, which compute each rate from the one before.

So several can be chained as in MMSegmentation: a warm-up over [0, 1500), then a polynomial decay. They count iterations
or epochs; a resumed run recomputes its rates from the first, which is in the optimiser's state. segplug-training has
the schedules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.errors import UsageError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


class ScheduleArguments(TypedDict, total=False):
    """The arguments of every schedule."""

    begin: NonNegativeInt
    end: PositiveInt | None
    by_epoch: bool


class Schedule:
    """Changes the learning rates during iterations ``begin`` <= i < ``end``, or during epochs.

    Args:
        begin: First iteration, or epoch, of the schedule.
        end: The one after its last; None is the end of the run.
        by_epoch: Count epochs in all arguments: rates change at the first iteration of an epoch.
    """

    def __init__(self, begin: NonNegativeInt = 0, end: PositiveInt | None = None, by_epoch: bool = False) -> None:
        if end is not None and end <= begin:
            raise UsageError(f"{type(self).__name__} ends at {end}, before it begins at {begin}")
        self.begin, self.end, self.by_epoch = begin, end, by_epoch

    def bind(self, iterations: int, epoch: Fraction = Fraction(1)) -> None:
        """Set the length of the run, and of an epoch, in iterations."""
        self.unit = epoch if self.by_epoch else 1
        self.end = math.ceil(iterations / self.unit) if self.end is None else self.end

    def step(self, optimizer: Optimizer, iteration: int) -> None:
        """Set the rates for ``iteration`` (0 is the first) from those of the iteration before."""
        for i in range((iteration - 1) // self.unit + 1, iteration // self.unit + 1):
            for group in optimizer.param_groups if self.begin <= i < (self.end or 0) else ():
                self.update(group, i - self.begin)

    @property
    def length(self) -> int:
        """Number of steps from the first iteration, or epoch, of the schedule to its last."""
        return (self.end or 0) - self.begin - 1

    def update(self, group: dict[str, Any], i: int) -> None:
        """Set the rate of a parameter group at iteration, or epoch, ``i``, counted from ``begin``."""
        group["lr"] = self.rate(group["lr"], group["initial_lr"], i)

    def rate(self, lr: float, base: float, i: int) -> float:
        """Return the rate at ``i`` from the previous rate ``lr``; ``base`` is the initial one."""
        raise NotImplementedError


class RunSchedules:
    """The schedules of one run, applied in turn after every iteration.

    Args:
        schedules: `Schedule` objects, or torch's ``LRScheduler`` objects of the run's optimiser.
        optimizer: None in a run that does not train.
        iterations: Length of the run.
        epoch: Iterations per epoch.
    """

    def __init__(
        self, schedules: Sequence[Schedule | LRScheduler], optimizer: Optimizer | None, iterations: int, epoch: Fraction
    ) -> None:
        self.optimizer: Any = optimizer
        used = schedules if optimizer is not None else ()
        self.ours = [schedule for schedule in used if isinstance(schedule, Schedule)]
        self.torchs: list[Any] = [schedule for schedule in used if not isinstance(schedule, Schedule)]
        for schedule in self.ours:
            schedule.bind(iterations, epoch)
        for group in optimizer.param_groups if optimizer is not None else ():
            group.setdefault("initial_lr", group["lr"])
        self.step(0)

    def step(self, iteration: int) -> None:
        """Set the rates for ``iteration``."""
        for schedule in self.ours:
            schedule.step(self.optimizer, iteration)
        for schedule in self.torchs if iteration else ():  # torch's set the first rates at construction
            schedule.step()

    def resume(self, iteration: int) -> None:
        """Set the rates for ``iteration`` as if the run had used these schedules from its beginning.

        Otherwise a run that is extended would continue at its last rate.
        """
        for group in self.optimizer.param_groups if self.ours else ():
            group.update({name[8:]: value for name, value in group.items() if name.startswith("initial_")})
        for passed in range(iteration + 1) if self.ours else ():
            for schedule in self.ours:
                schedule.step(self.optimizer, passed)
