"""`ScheduleHook`: applies learning-rate schedules after every iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segkernel.hookspecs import Priority, hookimpl
from segkernel.schedules import Schedule

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler

    from segkernel.hookspecs import Run


class ScheduleHook:
    """Applies schedules in turn after every iteration.

    Args:
        schedules: Ours, or torch's own ``LRScheduler`` objects around the run's optimiser.
    """

    priority = Priority.LOW

    def __init__(self, schedules: Sequence[Schedule | LRScheduler] = ()) -> None:
        self.ours: list[Schedule] = [s for s in schedules if isinstance(s, Schedule)]
        self.torchs: list[Any] = [s for s in schedules if not isinstance(s, Schedule)]

    @hookimpl
    def before_run(self, run: Run) -> None:
        for schedule in self.ours:
            schedule.bind(run.max_iterations)
        if run.optimizer is None or run.iteration:
            return
        for group in run.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._step(run)

    @hookimpl
    def after_train_iteration(self, run: Run) -> None:
        self._step(run)
        for schedule in self.torchs:
            schedule.step()

    def _step(self, run: Run) -> None:
        for schedule in self.ours:
            schedule.step(run.optimizer, run.iteration)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {"torch": [schedule.state_dict() for schedule in self.torchs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for schedule, saved in zip(self.torchs, state["torch"]):
            schedule.load_state_dict(saved)
