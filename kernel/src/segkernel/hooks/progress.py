"""`ProgressHook`: what a person sees of a run, as lines of the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

log = logging.getLogger("segkernel.progress")

_NOT_SHOWN = {"kind", "iteration", "epoch", "seconds_per_iteration"}


class ProgressHook:
    """Show training, validation and test: loss terms, rate, images per second, time left, share of data wait.

    Args:
        interval: Iterations between two lines.
    """

    priority = Priority.NORMAL

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._pace = Pace()

    @hookimpl
    def on_record(self, run: Run, record: Mapping[str, Any]) -> None:
        if not run.is_main:
            return
        if record["kind"] != "train":
            log.info("%s at iteration %d: %s", record["kind"], record["iteration"], summary(record))
            return
        left = self._pace.left(record["seconds_per_iteration"], run.max_iterations - run.iteration)
        self.show(run, f"{summary(record)}  eta {left}")

    def show(self, run: Run, text: str) -> None:
        """Show a record of training; called with each."""
        if run.iteration % self.interval == 0 or run.iteration == run.max_iterations:
            log.info("[%d/%d] %s", run.iteration, run.max_iterations, text)


class Pace:
    """Time left, from a running mean of the seconds an iteration takes."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def left(self, seconds: float, iterations: int) -> str:
        """Return the time that ``iterations`` more will take, ``1:02:03``."""
        self.seconds = seconds if self.seconds is None else 0.7 * self.seconds + 0.3 * seconds
        total = int(self.seconds * iterations)
        return time.strftime("%H:%M:%S", time.gmtime(total)) if total < 86400 else f"{total / 86400:.1f} days"


def summary(record: Mapping[str, Any]) -> str:
    """Return a record as one line; metrics of one class (``IoU.car``) are left to the table."""
    parts = []
    terms = [name for name in record if "loss" in name and name != "loss"]
    for name, value in record.items():
        if terms == [name]:  # the only term is the loss itself
            continue
        if name in _NOT_SHOWN or name.startswith(("IoU.", "iIoU.")) or f"m{name.split('.')[0]}" in record:
            continue
        if name == "data_wait":
            parts.append(f"wait {value:.0%}")
        elif name == "images_per_second":
            parts.append(f"{value:.1f} images/s")
        elif isinstance(value, float):
            parts.append(f"{name} {value:.3g}" if name == "lr" else f"{name} {value:.4f}".rstrip("0").rstrip("."))
    return "  ".join(parts)
