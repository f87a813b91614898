"""Learning-rate schedules: what a rate becomes from one iteration to the next.

So several chain as in MMSegmentation: a warm-up over [0, 1500), a polynomial decay from there. All count iterations;
a resumed run computes its rates anew from the first one, which is in the optimiser's state. They are
segplug-training's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.errors import UsageError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


class ScheduleArguments(TypedDict, total=False):
    """What every schedule takes."""

    begin: NonNegativeInt
    end: PositiveInt | None
    by_epoch: bool


class Schedule:
    """Changes the learning rates during iterations ``begin`` <= i < ``end``.

    Args:
        begin: First iteration it acts on.
        end: The iteration after its last; None is the run's last.
        by_epoch: Only False: kept so that MMSegmentation's arguments are accepted.
    """

    def __init__(self, begin: NonNegativeInt = 0, end: PositiveInt | None = None, by_epoch: bool = False) -> None:
        if by_epoch:
            raise UsageError(f"{type(self).__name__} counts iterations; by_epoch has no meaning here")
        if end is not None and end <= begin:
            raise UsageError(f"{type(self).__name__} ends at iteration {end}, before it begins at {begin}")
        self.begin, self.end = begin, end

    def bind(self, iterations: int) -> None:
        """Learn how long the run is."""
        self.end = iterations if self.end is None else self.end

    def step(self, optimizer: Optimizer, iteration: int) -> None:
        """Set the rates for ``iteration`` (0 is the first), coming from those of the one before."""
        if self.begin <= iteration < (self.end or 0):
            for group in optimizer.param_groups:
                group["lr"] = self.rate(group["lr"], group["initial_lr"], iteration - self.begin)

    @property
    def length(self) -> int:
        """Steps from its first iteration to its last."""
        return (self.end or 0) - self.begin - 1

    def rate(self, lr: float, base: float, i: int) -> float:
        """Return the rate at its own iteration ``i`` from the rate ``lr`` before; ``base`` is the optimiser's."""
        raise NotImplementedError


class RunSchedules:
    """The schedules of one run, applied in turn after every iteration.

    Args:
        schedules: Ours, or torch's own ``LRScheduler`` objects around the run's optimiser.
        optimizer: None in a run that does not train.
        iterations: Length of the run.
    """

    def __init__(
        self, schedules: Sequence[Schedule | LRScheduler], optimizer: Optimizer | None, iterations: int
    ) -> None:
        self.optimizer: Any = optimizer
        used = schedules if optimizer is not None else ()
        self.ours = [schedule for schedule in used if isinstance(schedule, Schedule)]
        self.torchs: list[Any] = [schedule for schedule in used if not isinstance(schedule, Schedule)]
        for schedule in self.ours:
            schedule.bind(iterations)
        for group in optimizer.param_groups if optimizer is not None else ():
            group.setdefault("initial_lr", group["lr"])
        self.step(0)

    def step(self, iteration: int) -> None:
        """Set the rates for ``iteration``."""
        for schedule in self.ours:
            schedule.step(self.optimizer, iteration)
        for schedule in self.torchs if iteration else ():  # torch's set the first rates when they are made
            schedule.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the states of torch's own; ours have none."""
        return [schedule.state_dict() for schedule in self.torchs]

    def resume(self, states: Sequence[dict[str, Any]], iteration: int) -> None:
        """Go on at ``iteration``: torch's own from their states, ours as if the run had had them from its beginning.

        A run that was made longer after it had come to its last rate would go on at that rate otherwise.
        """
        for schedule, state in zip(self.torchs, states):
            schedule.load_state_dict(state)
        for group in self.optimizer.param_groups if self.ours else ():
            group["lr"] = group["initial_lr"]
        for passed in range(iteration + 1) if self.ours else ():
            for schedule in self.ours:
                schedule.step(self.optimizer, passed)
