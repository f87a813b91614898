"""A hook: an object that a run calls at its moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkernel.annotations import PositiveInt
from segkernel.hookspecs import hookimpl


class MyModelHook:
    """Stop a run when a metric has not improved for some validations.

    Args:
        metric: Name of a metric; higher is better.
        patience: Validations without improvement.
    """

    def __init__(self, metric: str = "mIoU", patience: PositiveInt = 5) -> None:
        self.metric, self.patience = metric, patience
        self.best, self.waited = float("-inf"), 0

    @hookimpl
    def after_validation(self, run: Any, metrics: Mapping[str, float]) -> None:
        """Compare with the best validation so far."""
        better = metrics[self.metric] > self.best
        self.best, self.waited = max(self.best, metrics[self.metric]), 0 if better else self.waited + 1
        if self.waited >= self.patience:
            run.stop(f"{self.metric} has not exceeded {self.best:.2f} for {self.waited} validations")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self.best, self.waited = state["best"], state["waited"]
