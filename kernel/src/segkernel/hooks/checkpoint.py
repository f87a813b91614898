"""`CheckpointHook`: saves at an interval, keeps the last few, and the best by any metric of a validation."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkernel.errors import DataError, UsageError, did_you_mean
from segkernel.files import replacing
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

log = logging.getLogger(__name__)

UNVALIDATED = 1000
"""Iterations between two checkpoints of a run without validation, where nothing else is said."""


class CheckpointHook:
    """Save ``checkpoints/iter_N.pt`` and link the best as ``best_METRIC_iter_N.pt``.

    Args:
        interval: Iterations between two; None saves with every validation (every 1000 without one), and at the end.
        keep: How many of the regular ones stay; None keeps all.
        best: Metrics of a validation, highest is best (lowest where the name holds ``loss``); None for none.
        top_k: How many of the best stay, for each metric.
    """

    priority = Priority.VERY_LOW

    def __init__(
        self,
        interval: int | None = None,
        keep: int | None = 3,
        best: str | Sequence[str] | None = "mIoU",
        top_k: int = 1,
    ) -> None:
        if (interval is not None and interval < 1) or (keep is not None and keep < 1) or top_k < 1:
            raise UsageError("CheckpointHook: interval, keep and top_k are 1 or more")
        self.interval, self.keep, self.top_k = interval, keep, top_k
        self.watched = [best] if isinstance(best, str) else list(best or ())
        self.best: dict[str, list[tuple[float, int]]] = {name: [] for name in self.watched}
        self._validated = False
        self._entered: list[str] = []
        self._saved_at: int | None = None

    @hookimpl
    def before_train(self, run: Run) -> None:
        self._saved_at = run.iteration

    @hookimpl
    def after_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._validated = True
        for name in self.watched:
            value = metrics.get(name, math.nan)
            if name not in metrics:
                near = ", ".join(did_you_mean(name, metrics) or list(metrics)[:5])
                log.warning("CheckpointHook: the validation has no metric %r, only such as %s", name, near)
            elif math.isfinite(value) and self._enter(name, value, run.iteration):
                self._entered.append(name)

    def _enter(self, name: str, value: float, iteration: int) -> bool:
        ranked = [entry for entry in self.best[name] if entry[1] != iteration] + [(value, iteration)]
        ranked.sort(key=lambda entry: entry[0], reverse="loss" not in name)
        self.best[name] = ranked[: self.top_k]
        return (value, iteration) in self.best[name]

    @hookimpl
    def after_iteration(self, run: Run) -> None:
        if self.interval is None and run.val_set is not None:
            regular = self._validated
        else:
            regular = run.iteration % (self.interval or UNVALIDATED) == 0
        if regular or self._entered or run.stopping or run.iteration >= run.max_iterations:
            self._save(run)
        self._validated, self._entered = False, []

    @hookimpl
    def on_exception(self, run: Run, error: BaseException) -> None:
        """Keep what was trained when a file cannot be used, in validation for instance: training can go on from it."""
        together = run.engine.world_size == 1 or (isinstance(error, DataError) and error.on_all_ranks)
        if isinstance(error, DataError) and together and run.settled and self._saved_at not in (None, run.iteration):
            self._save(run)
            log.info("saved iteration %d; go on with --resume when the data is in order", run.iteration)

    def _save(self, run: Run) -> None:
        path = run.save(self._folder(run) / f"iter_{run.iteration:07d}.pt")
        self._saved_at = run.iteration
        if run.is_main:
            self._link_best(run, path)
            self._prune(run)
        run.engine.barrier()  # the best one may be asked for next

    def _link_best(self, run: Run, path: Path) -> None:
        for name in self._entered:
            _link(path, self._best_path(run, name, run.iteration))
            log.info("best %s so far: %.4g at iteration %d", name, self.best[name][0][0], self.best[name][0][1])

    def _prune(self, run: Run) -> None:
        folder = self._folder(run)
        regular = sorted(folder.glob("iter_*.pt"))
        for old in regular[: -self.keep] if self.keep else []:
            old.unlink()
        wanted = {self._best_path(run, name, iteration) for name in self.best for _, iteration in self.best[name]}
        for name in self.watched:
            for old in folder.glob(f"best_{_safe(name)}_iter_*.pt"):
                if old not in wanted:
                    old.unlink()

    def best_path(self, run: Run) -> Path | None:
        """Return the file with the best of the first watched metric, if there is one."""
        for name in self.watched:
            for _, iteration in self.best[name]:
                path = self._best_path(run, name, iteration)
                if path.exists():
                    return path
        return None

    def _best_path(self, run: Run, name: str, iteration: int) -> Path:
        return self._folder(run) / f"best_{_safe(name)}_iter_{iteration:07d}.pt"

    @staticmethod
    def _folder(run: Run) -> Path:
        return run.work_dir / "checkpoints"

    def state_dict(self) -> dict[str, Any]:
        return {"best": {name: [list(entry) for entry in entries] for name, entries in self.best.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, entries in state["best"].items():
            if name in self.best:
                self.best[name] = [(float(value), int(iteration)) for value, iteration in entries]

    @hookimpl
    def load_checkpoint(self, run: Run) -> None:
        """Make the links that a killed run had no time for."""
        for name, entries in self.best.items():
            for _, iteration in entries:
                source = self._folder(run) / f"iter_{iteration:07d}.pt"
                target = self._best_path(run, name, iteration)
                if run.is_main and source.exists() and not target.exists():
                    _link(source, target)


def _link(source: Path, target: Path) -> None:
    """Give the file a second name, atomically; copy where the file system has no links."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _safe(name: str) -> str:
    return name.replace("/", "-").replace(" ", "-")
