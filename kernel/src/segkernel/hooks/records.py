"""The hooks of records: one makes them from losses, others show them and write them down."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from segkernel.annotations import PositiveInt
from segkernel.hookspecs import Priority, Run, hookimpl

if TYPE_CHECKING:
    from segkernel.sample import Batch

log = logging.getLogger("segkernel.progress")

_NOT_SHOWN = {"kind", "iteration", "epoch", "seconds_per_iteration"}
_SHOWN_AS = {"data_wait": "wait {:.0%}", "images_per_second": "{:.1f} images/s", "lr": "lr {:.3g}"}


class MeterHook:
    """Emit a ``train`` record every ``interval`` iterations: mean losses, rate, images per second, share of data wait.

    Reading a loss waits for the device, so losses are summed there and read once per interval.

    Args:
        interval: Iterations.
    """

    priority = Priority.ABOVE_NORMAL

    def __init__(self, interval: PositiveInt = 10) -> None:
        self.interval = interval
        self.before_train()

    @hookimpl
    def before_train(self) -> None:
        """Begin an interval."""
        self.sums: dict[str, Any] = {}
        self.count = self.images = 0
        self.waited = 0.0
        self.started = time.perf_counter()

    @hookimpl
    def after_train_iteration(self, run: Run, batches: list[Batch], losses: Mapping[str, Any]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        self.images += sum(len(batch) for batch in batches) * run.engine.world_size
        self.waited += run.data_wait
        if run.iteration % self.interval == 0 or run.iteration == run.max_iterations:
            run.emit(self._record(run))
            self.before_train()

    @hookimpl
    def after_iteration(self, run: Run) -> None:
        if not self.count:  # a validation between two intervals is not training time
            self.started = time.perf_counter()

    def _record(self, run: Run) -> dict[str, Any]:
        ranks = run.engine.world_size
        sums = run.engine.sum({name: [float(value)] for name, value in self.sums.items()})
        means = {name: value / (self.count * ranks) for name, value in sums.items()}
        seconds = max(time.perf_counter() - self.started, 1e-9)
        record: dict[str, Any] = {"kind": "train", "iteration": run.iteration, "epoch": round(run.epoch, 4)}
        record["lr"] = run.optimizer.param_groups[0]["lr"] if run.optimizer else 0.0
        record |= {"loss": means.pop("loss"), **means}
        record["seconds_per_iteration"] = round(seconds / self.count, 5)
        record["images_per_second"] = round(self.images / seconds, 2)
        record["data_wait"] = round(min(self.waited / seconds, 1.0), 4)
        return record


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
        """Show a record of training; called with each."""
        if run.iteration % self.interval == 0 or run.iteration == run.max_iterations:
            log.info("[%d/%d] %s", run.iteration, run.max_iterations, text)


def summary(record: Mapping[str, Any]) -> str:
    """Return a record as one line; metrics of one class (``IoU.car``) are left to the table."""
    terms = [name for name in record if "loss" in name and name != "loss"]
    only_term = terms if len(terms) == 1 else []  # it is the loss itself
    parts = []
    for name, value in record.items():
        kind = name.partition(".")[0]
        if name in (*_NOT_SHOWN, *only_term) or name.startswith(("IoU.", "iIoU.")) or f"m{kind}" in record:
            continue
        if name in _SHOWN_AS:
            parts.append(_SHOWN_AS[name].format(value))
        elif isinstance(value, float):
            parts.append(f"{name} {value:.4f}".rstrip("0").rstrip("."))
    return "  ".join(parts)


class MetricsLogHook:
    """Write records; on resume, cut the file to what the checkpoint had seen."""

    priority = Priority.BELOW_NORMAL
    name = "metrics.jsonl"

    @hookimpl
    def save_checkpoint(self, run: Run, checkpoint: dict[str, Any]) -> None:
        path = run.work_dir / self.name
        # A size, not an iteration: the test at the end has the iteration of the last checkpoint, which has not seen it.
        checkpoint["metrics_log"] = path.stat().st_size if run.is_main and path.exists() else 0

    @hookimpl
    def load_checkpoint(self, run: Run, checkpoint: Mapping[str, Any]) -> None:
        path, size = run.work_dir / self.name, checkpoint.get("metrics_log")
        if run.is_main and size is not None and path.exists() and path.stat().st_size > size:
            os.truncate(path, size)

    @hookimpl
    def on_record(self, run: Run, record: Mapping[str, Any]) -> None:
        if run.is_main:
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
            with (run.work_dir / self.name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
