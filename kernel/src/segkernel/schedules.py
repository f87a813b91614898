"""Learning-rate schedules: what a rate becomes from one iteration to the next.

So several chain as in MMSegmentation: a warm-up over [0, 1500), a polynomial decay from there. All count iterations;
what is to be restored on resume is the rates themselves, and those are in the optimiser's state. segplug-training has
more of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict, Unpack

from segkernel.errors import UsageError

if TYPE_CHECKING:
    from torch.optim import Optimizer


class ScheduleArguments(TypedDict, total=False):
    """What every schedule takes."""

    begin: int
    end: int | None
    by_epoch: bool


class Schedule:
    """Changes the learning rates during iterations ``begin`` <= i < ``end``.

    Args:
        begin: First iteration it acts on.
        end: The iteration after its last; None is the run's last.
        by_epoch: Only False: kept so that MMSegmentation's arguments are accepted.
    """

    def __init__(self, begin: int = 0, end: int | None = None, by_epoch: bool = False) -> None:
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


class PolyLR(Schedule):
    """Decay to ``eta_min`` as (1 - i / length) ** power."""

    def __init__(self, power: float = 1.0, eta_min: float = 0.0, **kwargs: Unpack[ScheduleArguments]) -> None:
        super().__init__(**kwargs)
        self.power, self.eta_min = power, eta_min

    def rate(self, lr: float, base: float, i: int) -> float:
        if i == 0:
            return lr
        return (lr - self.eta_min) * (1 - 1 / (self.length - i + 1)) ** self.power + self.eta_min


class LinearLR(Schedule):
    """Grow from ``start_factor`` to ``end_factor`` times the rate: the usual warm-up."""

    def __init__(
        self, start_factor: float = 1 / 3, end_factor: float = 1.0, **kwargs: Unpack[ScheduleArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.start_factor, self.end_factor = start_factor, end_factor

    def rate(self, lr: float, base: float, i: int) -> float:
        if i == 0:
            return lr * self.start_factor
        rise = self.end_factor - self.start_factor
        return lr * (1 + rise / (self.length * self.start_factor + (i - 1) * rise))
