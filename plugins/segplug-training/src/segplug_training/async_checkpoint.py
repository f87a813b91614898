"""`AsyncCheckpointHook`: training continues while a checkpoint is written.

    hooks:
      - {type: AsyncCheckpointHook, interval: 1000}

It replaces `CheckpointHook`, has its arguments, and can count epochs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from segkernel.annotations import PositiveInt
from segkernel.engine import together
from segkernel.hooks.checkpoint import BEST, CheckpointHook
from segkernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run
    from segkernel.interfaces.model import Engine

log = logging.getLogger("segkernel.checkpoint")


class AsyncCheckpointHook(CheckpointHook):
    """Copy a checkpoint to host memory and write it in the background during the next iterations.

    The file has a temporary name until it is complete, so that a kill at any time leaves the previous one intact.
    A checkpoint that is due while the previous one is still being written is saved in the first iteration after that,
    so that host memory holds one copy and training does not wait; a best checkpoint and the last one wait. An error
    of the writer is raised when the next one is saved.

    Args:
        interval: Iterations between checkpoints, as in `CheckpointHook`, or epochs.
        keep: Number of regular checkpoints to keep; None keeps all.
        best: Validation metrics to select by.
        top_k: Number of best checkpoints to keep for each metric.
        by_epoch: Whether ``interval`` counts epochs; None is then 1. A checkpoint is saved in the iteration in which an
            epoch ends.
    """

    def __init__(
        self,
        interval: PositiveInt | None = None,
        keep: PositiveInt | None = 3,
        best: str | Sequence[str] | None = BEST,
        top_k: PositiveInt = 1,
        by_epoch: bool = False,
    ) -> None:
        super().__init__(interval=interval, keep=keep, best=best, top_k=top_k)
        self.by_epoch, self._epochs = by_epoch, 0
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._takes_over = self._is_pending = self._may_postpone = self._is_postponed = False
        self._best_when_saved = self.best

    @hookimpl
    def before_train(self, run: Run) -> None:
        super().before_train(run)
        self._epochs = int(run.epoch)

    def _is_due(self, run: Run) -> bool:
        if not self.by_epoch:
            return super()._is_due(run)
        before, self._epochs = self._epochs, int(run.epoch)
        interval = self.interval or 1
        return self._epochs // interval > before // interval

    @hookimpl
    def after_iteration(self, run: Run) -> None:
        self._may_postpone = True
        try:
            super().after_iteration(run)
            if self._is_postponed:
                self._save(run)
        finally:
            self._may_postpone = False

    def _save(self, run: Run) -> None:
        is_last = run.stopping or run.iteration >= run.max_iterations
        if self._is_pending and not is_last and run.engine.any(self._is_writing()):
            is_best = any(iteration == run.iteration for _, iteration in self._best_files(run).values())
            if self._may_postpone and not is_best:
                self._is_postponed = True
                return
            log.warning("AsyncCheckpointHook: training waits until the previous checkpoint is written")
        self._is_postponed = False
        self._finish(run)
        self._takes_over = True
        try:
            super()._save(run)
        finally:
            self._takes_over = False
        if is_last:
            self._finish(run)

    def _is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _written(self, run: Run) -> None:
        """Leave the rest to `_finish`; the best checkpoint may have changed by then."""
        self._is_pending = True
        self._best_when_saved = {name: list(entries) for name, entries in self.best.items()}

    def _finish(self, run: Run) -> None:
        """Wait until the last checkpoint is written, and link it; called by all ranks together."""
        if self._is_pending:
            self._is_pending = False
            with together(run.engine):
                self._wait()
            now, self.best = self.best, self._best_when_saved
            super()._written(run)
            self.best = now

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    @hookimpl
    def write_checkpoint(self, run: Run, path: Path, checkpoint: dict[str, Any]) -> bool:
        """Write this hook's checkpoints in the background; others are written by their caller."""
        if self._takes_over and (run.is_main or getattr(run.engine, "writes_shards", False)):
            arguments = (run.engine, path, on_host(checkpoint))
            self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint")
            self._thread.start()
        return self._takes_over

    def _write(self, engine: Engine, path: Path, checkpoint: dict[str, Any]) -> None:
        try:
            engine.write(path, checkpoint)
        except Exception as error:  # raised in the thread that waits
            self._error = error

    @hookimpl
    def on_exception(self, run: Run, error: BaseException) -> None:
        before = self._saved_at
        super().on_exception(run, error)
        if self._saved_at != before:
            self._finish(run)

    @hookimpl
    def after_run(self) -> None:
        """Wait for a checkpoint that was being written when an error occurred, on this rank alone."""
        try:
            self._wait()
        except Exception as error:
            log.error("the last checkpoint was not written: %s", error)


def on_host(value: Any) -> Any:
    """Return a copy with all tensors in separate host memory, unaffected by further training."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy(value)  # keeps the class, and the versions of layers, which torch stores in an attribute
        copied.update({key: on_host(entry) for key, entry in value.items()})
        return copied
    if isinstance(value, list | tuple):
        return type(value)(map(on_host, value))
    return value
