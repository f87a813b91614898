"""`CheckpointHook`: saves at an interval, keeps the last few, and the best by any validation metric."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from segkernel.annotations import PositiveInt
from segkernel.errors import DataError, UsageError, suggest
from segkernel.files import file_name, replacing
from segkernel.hookspecs import Priority, Run, hookimpl

log = logging.getLogger(__name__)

UNVALIDATED = 1000
"""Default interval, in iterations, of a run without validation."""
BEST = ("mIoU",)
"""Default metric, which a run without classes does not have; one that is named must exist."""
ERRORS = ("error", "rmse", "rmse_log", "abs_rel", "sq_rel", "log10", "silog", "ece", "mece", "mce")
"""Metrics where lower is better, besides losses."""


class CheckpointHook:
    """Save ``checkpoints/iter_N.pt`` and link the best as ``best_METRIC_iter_N.pt``.

    Args:
        interval: Iterations between two; None saves with every validation (every 1000 without one), and at the end.
        keep: Number of regular checkpoints to keep; None keeps all.
        best: Validation metrics, highest is best (lowest for losses and `ERRORS`); None for none.
        top_k: Number of best checkpoints to keep for each metric.

    Raises:
        UsageError: When the first validation lacks a metric of a ``best`` that is given.
    """

    priority = Priority.VERY_LOW

    def __init__(
        self,
        interval: PositiveInt | None = None,
        keep: PositiveInt | None = 3,
        best: str | Sequence[str] | None = BEST,
        top_k: PositiveInt = 1,
    ) -> None:
        if (interval is not None and interval < 1) or (keep is not None and keep < 1) or top_k < 1:
            raise UsageError("CheckpointHook: interval, keep and top_k must be 1 or more")
        self.interval, self.keep, self.top_k, self.must_exist = interval, keep, top_k, best is not BEST
        watched = [best] if isinstance(best, str) else best or ()
        self.best: dict[str, list[tuple[float, int]]] = {name: [] for name in watched}
        self._validated_at: int | None = None
        self._saved_at: int | None = None

    @hookimpl
    def before_train(self, run: Run) -> None:
        self._saved_at = run.iteration

    @hookimpl
    def after_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._validated_at = run.iteration
        for name in self.best:
            if name not in metrics and self.must_exist:
                raise UsageError(f"CheckpointHook: validation has no metric {name!r}; {suggest(name, metrics)}")
            if name in metrics and math.isfinite(value := metrics[name]):
                rest = (each for each in self.best[name] if each[1] != run.iteration)
                more = not any("loss" in part or part in ERRORS for part in name.lower().split("."))
                self.best[name] = sorted([*rest, (value, run.iteration)], key=itemgetter(0), reverse=more)[: self.top_k]

    @hookimpl
    def after_iteration(self, run: Run) -> None:
        is_best = any(iteration == run.iteration for _, iteration in self._best_files(run).values())
        if self._is_due(run) or is_best or run.stopping or run.iteration >= run.max_iterations:
            self._save(run)

    def _is_due(self, run: Run) -> bool:
        """Whether the interval ends with this iteration; asked once in each."""
        interval = self.interval or (UNVALIDATED if run.val_set is None else None)
        return run.iteration % interval == 0 if interval else self._validated_at == run.iteration

    @hookimpl
    def on_exception(self, run: Run, error: BaseException) -> None:
        """Save the run when a file, or a setting of validation, cannot be used, so that it can be resumed."""
        known = isinstance(error, DataError | UsageError) and (run.engine.world_size == 1 or error.on_all_ranks)
        if known and run.settled and self._saved_at not in (None, run.iteration):
            self._save(run)
            log.info("saved iteration %d; fix the error and continue with --resume", run.iteration)

    def _save(self, run: Run) -> None:
        run.save(run.work_dir / "checkpoints" / _file_of(run.iteration))
        self._saved_at = run.iteration
        self._written(run)

    def _written(self, run: Run) -> None:
        """Link the best and delete old files after one is written; a collective call."""
        if run.is_main:
            self._link_best(run, run.work_dir / "checkpoints")
            self._prune(run)
        run.engine.barrier()  # the best one may be read next

    def _best_files(self, run: Run) -> dict[Path, tuple[float, int]]:
        """Return the files of the best checkpoints, by metric and best first, with value and iteration."""
        folder, best = run.work_dir / "checkpoints", self.best.items()
        return {folder / f"best_{file_name(name)}_{_file_of(each[1])}": each for name, found in best for each in found}

    def _link_best(self, run: Run, folder: Path) -> None:
        """Link the best to the files of ``folder``."""
        for path, (value, iteration) in self._best_files(run).items():
            source = next(filter(Path.exists, (folder / _file_of(iteration), folder / path.name)), path)
            # An existing file may be of a run that was resumed differently from here.
            if source != path and (iteration == self._saved_at or not path.exists()):
                _link(source, path)
                log.info("among the best: %s with %.4g", path.name, value)

    def _prune(self, run: Run) -> None:
        folder, wanted = run.work_dir / "checkpoints", self._best_files(run)
        regular = sorted(folder.glob("iter_*.pt"))
        best = [path for name in self.best for path in folder.glob(f"best_{file_name(name)}_iter_*.pt")]
        for old in [*(regular[: -self.keep] if self.keep else []), *(path for path in best if path not in wanted)]:
            old.unlink()

    def best_path(self, run: Run) -> Path | None:
        """Return the file with the best of the first watched metric, if there is one."""
        return next((path for path in self._best_files(run) if path.exists()), None)

    def state_dict(self) -> dict[str, Any]:
        return {"best": dict(self.best)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best |= {name: entries for name, entries in state["best"].items() if name in self.best}

    @hookimpl
    def load_checkpoint(self, run: Run, checkpoint: Mapping[str, Any]) -> None:
        """Create the links that a killed run is missing, and copy the best from the checkpoint's folder."""
        self._saved_at = run.iteration
        if run.is_main:
            self._link_best(run, Path(checkpoint["path"]).parent)
        lost = run.engine.agree([entry for path, entry in self._best_files(run).items() if not path.exists()])
        for entry in lost:
            log.warning("the best, %.4g at iteration %d, is not in the checkpoint's folder and is left out", *entry)
        self.best = {name: [each for each in entries if each not in lost] for name, entries in self.best.items()}


def _link(source: Path, target: Path) -> None:
    """Create a hard link, atomically; copy the file if the file system has no links."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _file_of(iteration: int) -> str:
    return f"iter_{iteration:07d}.pt"
