"""Progress of a run: what it is at its start, a bar in a terminal or lines elsewhere, what came out at its end."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Container, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from segkernel.annotations import PositiveInt
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.data import Loader
    from segkernel.hookspecs import Run

log = logging.getLogger("segkernel.progress")

LONGEST_SILENCE = 30.0
"""Seconds without a line after which one is shown although the interval has not passed."""

_NOT_SHOWN = {"kind", "iteration", "epoch", "seconds_per_iteration"}
_SHOWN_AS = {"data_wait": "wait {:.0%}", "images_per_second": "{:.1f} images/s", "memory": "{:.0f} MiB"}


class ProgressHook:
    """Show a run: device, model, sets and length at its start, progress, and its results and what is next at its end.

    In a terminal, a live bar moves with every iteration, and with every image of a validation or test. Elsewhere there
    are lines: for the first iteration, then one per ``interval``, and at least one in 30 seconds. Both show loss terms,
    rate, images per second, time left and the share of data wait.

    Args:
        interval: Iterations between two lines where no bar is shown.
        live: Whether to show the bar; None shows it if standard error is a terminal.
    """

    priority = Priority.NORMAL

    def __init__(self, interval: PositiveInt = 50, live: bool | None = None) -> None:
        self.interval, self.live = interval, live
        self._bar: Any = None
        self._tasks: list[Any] = []  # those of the bar: training, and a validation inside it
        self._shown_at = 0.0
        self._is_first = self._is_running = False
        self._images = 0
        self._evaluated: Mapping[str, Any] = {}

    # ------------------------------------------------------------ start and end of the run

    @hookimpl
    def before_run(self, run: Run) -> None:
        from segplug_training.begin_check import epochs_of
        from segplug_training.length_check import overlong_text
        from segplug_training.run_summary import not_loaded, start_text

        self._is_running, self._evaluated = True, {}
        if run.is_main:
            log.info("%s", start_text(run))
            for name in not_loaded(run.model):
                log.warning("the model names the weights %s but has not loaded them: see weights.load_pretrained", name)
        lengths = {"iterations": run.max_iterations, "epochs": epochs_of(run)}
        section = run.config.get("schedule") or {}
        if run.is_main and run.train_set is not None and (text := overlong_text(section, lengths)):
            log.warning("%s", text)

    @hookimpl
    def on_exception(self, run: Run) -> None:
        from segplug_training.run_summary import resume_text

        if self._is_running and run.is_main and run.train_set is not None and (text := resume_text(run)):
            log.info("%s", text)
        self._is_running = False

    @hookimpl
    def after_run(self, run: Run) -> None:
        from segplug_training.run_summary import end_text

        if self._is_running and run.is_main and self._evaluated:
            log.info("%s", end_text(run, self._evaluated))

    # ------------------------------------------------------------ training

    @hookimpl
    def before_train(self, run: Run) -> None:
        self._is_first = True
        self._begin(run, "train", run.max_iterations, run.iteration)

    @hookimpl
    def after_train_iteration(self, run: Run, losses: Mapping[str, Any]) -> None:
        if self._is_first and run.is_main and "loss" in losses:  # only the first loss: reading it waits for the device
            seconds = time.perf_counter() - self._shown_at
            self.show(run, f"loss {float(losses['loss']):.4f}  in {seconds:.1f} s, loading included")
        if self._bar is not None:
            self._bar.update(self._tasks[-1], completed=run.iteration)
        self._is_first = False

    @hookimpl
    def on_record(self, run: Run, record: Mapping[str, Any]) -> None:
        if run.is_main and record["kind"] == "train":
            left = timedelta(seconds=round(record["seconds_per_iteration"] * (run.max_iterations - run.iteration)))
            self.show(run, f"{summary(record)}  eta {left}")
        elif run.is_main:
            self._evaluated = record
            log.info("%s at iteration %d: %s", record["kind"], record["iteration"], summary(record))

    def show(self, run: Run, text: str) -> None:
        """Show figures of training; called for every record, and after the first iteration."""
        if self._bar is not None:
            self._bar.update(self._tasks[-1], completed=run.iteration, text=text)
        elif (
            self._is_first or run.iteration % self.interval == 0 or run.iteration == run.max_iterations or self._is_due
        ):
            self._shown_at = time.perf_counter()
            log.info("[%d/%d] %s", run.iteration, run.max_iterations, text)

    @hookimpl
    def after_train(self) -> None:
        self._end()

    # ------------------------------------------------------------ validation and test

    @hookimpl
    def before_validation(self, run: Run) -> None:
        self._images = 0
        self._begin(run, "val", _size(run.val_set))

    @hookimpl
    def before_test(self, run: Run) -> None:
        self._images = 0
        self._begin(run, "test", _size(run.test_set))

    @hookimpl
    def after_prediction(self, run: Run) -> None:
        self._images += run.engine.world_size
        if self._bar is not None:
            self._bar.update(self._tasks[-1], completed=self._images)
        elif run.is_main and self._is_due:
            self._shown_at = time.perf_counter()
            log.info(
                "%s: %d of %d images",
                run.mode,
                self._images,
                _size(run.test_set if run.mode == "test" else run.val_set),
            )

    @hookimpl
    def validation_ended(self) -> None:
        self._end()

    @hookimpl
    def test_ended(self) -> None:
        self._end()

    # ------------------------------------------------------------ the bar

    @property
    def _is_due(self) -> bool:
        return time.perf_counter() - self._shown_at > LONGEST_SILENCE

    def _begin(self, run: Run, name: str, total: int, completed: int = 0) -> None:
        self._shown_at = time.perf_counter()
        if not run.is_main or not (sys.stderr.isatty() if self.live is None else self.live):
            return
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.start()
        self._tasks.append(self._bar.add_task(name, total=total, completed=completed, text=""))

    def _end(self) -> None:
        """Remove the line of what has ended, and the bar with the last."""
        self._shown_at = time.perf_counter()
        if self._tasks:
            self._bar.remove_task(self._tasks.pop())
        if self._bar is not None and not self._tasks:
            self._bar.stop()
            self._bar = None


class ProgressBarHook(ProgressHook):
    """The same as `ProgressHook`, under the name that the bar had when it was a hook of its own."""


def _size(part: Loader | None) -> int:
    return len(part.dataset) if part is not None else 0


def _new_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    text = TextColumn("{task.fields[text]}", table_column=Column(no_wrap=False, overflow="fold"))
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), text)
    return Progress(*columns, console=Console(stderr=True), transient=True)


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
