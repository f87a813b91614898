"""`ProgressHook`: what a person sees of a run: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
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
        interval: Iterations between two plain lines; the live line moves with every record.
        live: A progress bar instead of plain lines; None decides by whether standard error is a terminal.
    """

    priority = Priority.NORMAL

    def __init__(self, interval: int = 50, live: bool | None = None) -> None:
        self.interval = interval
        self.live = live
        self._bar: Any = None
        self._task: Any = None
        self._pace = Pace()

    @hookimpl
    def before_train(self, run: Run) -> None:
        if run.is_main and (sys.stderr.isatty() if self.live is None else self.live):
            self._open(run)

    @hookimpl
    def on_record(self, run: Run, record: Mapping[str, Any]) -> None:
        if not run.is_main:
            return
        if record["kind"] != "train":
            log.info("%s at iteration %d: %s", record["kind"], record["iteration"], summary(record))
            return
        left = self._pace.left(record["seconds_per_iteration"], run.max_iterations - run.iteration)
        text = f"{summary(record)}  eta {left}"
        if self._bar is not None:
            self._bar.update(self._task, completed=run.iteration, text=text)
        elif run.iteration % self.interval == 0 or run.iteration == run.max_iterations:
            log.info("[%d/%d] %s", run.iteration, run.max_iterations, text)

    @hookimpl
    def after_train(self) -> None:
        self._close()

    @hookimpl
    def after_run(self) -> None:
        self._close()

    def _open(self, run: Run) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        text = TextColumn("{task.fields[text]}", table_column=Column(no_wrap=False, overflow="fold"))
        columns = (BarColumn(bar_width=20), MofNCompleteColumn(), text)
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("train", total=run.max_iterations, completed=run.iteration, text="")
        self._bar.start()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


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
    """Return a record as one line; figures per class (``IoU.car``) are left to the table."""
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
