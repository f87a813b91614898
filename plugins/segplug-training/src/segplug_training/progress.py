"""Progress in the terminal: `ProgressHook` prints lines, `ProgressBarHook` a live bar during training."""

from __future__ import annotations

import logging
import sys
from collections.abc import Container, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from segkernel.annotations import PositiveInt
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

log = logging.getLogger("segkernel.progress")

_NOT_SHOWN = {"kind", "iteration", "epoch", "seconds_per_iteration"}
_SHOWN_AS = {"data_wait": "wait {:.0%}", "images_per_second": "{:.1f} images/s", "memory": "{:.0f} MiB"}


class ProgressHook:
    """Show training, validation and test: loss terms, rate, images per second, time left, share of data wait.

    Args:
        interval: Iterations between two lines.
    """

    priority = Priority.NORMAL

    def __init__(self, interval: PositiveInt = 50) -> None:
        self.interval = interval

    @hookimpl
    def on_record(self, run: Run, record: Mapping[str, Any]) -> None:
        if run.is_main and record["kind"] == "train":
            left = timedelta(seconds=round(record["seconds_per_iteration"] * (run.max_iterations - run.iteration)))
            self.show(run, f"{summary(record)}  eta {left}")
        elif run.is_main:
            log.info("%s at iteration %d: %s", record["kind"], record["iteration"], summary(record))

    def show(self, run: Run, text: str) -> None:
        """Show a training record; called for each."""
        if run.iteration % self.interval == 0 or run.iteration == run.max_iterations:
            log.info("[%d/%d] %s", run.iteration, run.max_iterations, text)


class ProgressBarHook(ProgressHook):
    """Show training as a live progress bar that is updated with every record and removed at the end.

    Args:
        interval: Iterations between two lines where no bar is shown.
        live: Whether to show the bar; None shows it if standard error is a terminal.
    """

    def __init__(self, interval: PositiveInt = 50, live: bool | None = None) -> None:
        super().__init__(interval)
        self.live = live
        self._bar: Any = None
        self._task: Any = None

    @hookimpl
    def before_train(self, run: Run) -> None:
        if run.is_main and (sys.stderr.isatty() if self.live is None else self.live):
            self._open(run)

    @hookimpl
    def after_train(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, run: Run, text: str) -> None:
        if self._bar is None:
            super().show(run, text)
        else:
            self._bar.update(self._task, completed=run.iteration, text=text)

    def _open(self, run: Run) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        text = TextColumn("{task.fields[text]}", table_column=Column(no_wrap=False, overflow="fold"))
        columns = (BarColumn(bar_width=20), MofNCompleteColumn(), text)
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("train", total=run.max_iterations, completed=run.iteration, text="")
        self._bar.start()


def summary(record: Mapping[str, Any]) -> str:
    """Return a record as one line, without metrics of a single class (``IoU.car``), which the table shows."""
    terms = [name for name in record if "loss" in name and name != "loss"]
    only_term = terms if len(terms) == 1 else []  # a single term equals the loss
    rates = [value for name, value in record.items() if name == "lr" or name.startswith("lr.")]
    parts = []
    for name, value in record.items():
        if name in (*_NOT_SHOWN, *only_term) or name.startswith("lr.") or is_of_one_class(name, record):
            continue
        if name == "lr":
            lowest, highest = f"{min(rates):.3g}", f"{max(rates):.3g}"
            parts.append(f"lr {lowest}" if lowest == highest else f"lr {lowest} to {highest}")
        elif name in _SHOWN_AS:
            parts.append(_SHOWN_AS[name].format(value))
        elif isinstance(value, float):
            parts.append(f"{name} {value:.4f}".rstrip("0").rstrip("."))
    return "  ".join(parts)


def is_of_one_class(name: str, names: Container[str]) -> bool:
    """Whether a metric belongs to one class, its mean being in ``names``: ``IoU.car``, ``material.IoU.wood``."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        *head, kind = parts[:count]
        if kind in ("IoU", "iIoU") or ".".join([*head, f"m{kind}"]) in names:
            return True
    return False
