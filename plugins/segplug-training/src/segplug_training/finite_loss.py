"""`FiniteLossHook`: stops the run at a loss that is not finite, before anything is saved; its batch can be replayed."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from segkernel.annotations import Positive, PositiveInt
from segkernel.errors import TrainingError
from segkernel.hookspecs import Priority, hookimpl
from segplug_training.batch_record import BatchRecord, digest

if TYPE_CHECKING:
    from torch import Tensor

    from segkernel.hookspecs import Run
    from segkernel.sample import Batch

log = logging.getLogger("segkernel.finite_loss")

USUAL = 50
"""Number of recent losses whose median is the usual loss."""


class FiniteLossHook:
    """Stop when a loss is not finite; warn when one is far larger than usual.

    The loss is checked in every iteration on the CPU, every ``interval`` iterations on a device, to avoid
    synchronising, and always before a validation and before a checkpoint is written.
    ``replay/iter_N_rankR.json`` in the run directory then names the samples, from which ``seg-kernel replay``
    reproduces the batch.

    Args:
        interval: Iterations between two checks of the losses on a device.
        spike: A loss of more than this many times the median of the last fifty is reported; None disables it.
    """

    priority = Priority.VERY_HIGH

    def __init__(self, interval: PositiveInt = 50, spike: Positive | None = None) -> None:
        self.interval, self.spike = interval, spike
        self._unchecked: list[tuple[BatchRecord, Tensor]] = []
        self._usual: deque[float] = deque(maxlen=USUAL)

    @hookimpl
    def before_train(self) -> None:
        self._unchecked = []

    @hookimpl
    def after_train_iteration(self, run: Run, batches: list[Batch], losses: Mapping[str, Any]) -> None:
        self._unchecked.append((BatchRecord.of(run, batches), losses["loss"]))
        if run.engine.device.type == "cpu" or len(self._unchecked) >= self.interval:
            self._check(run, batches)

    @hookimpl
    def before_validation(self, run: Run) -> None:
        self._check(run)

    @hookimpl
    def save_checkpoint(self, run: Run) -> None:
        self._check(run)

    @hookimpl
    def after_train(self, run: Run) -> None:
        self._check(run)

    def _check(self, run: Run, batches: Sequence[Batch] = ()) -> None:
        """Check the losses since the last check; ``batches`` are those of the last iteration, if available."""
        unchecked, self._unchecked = self._unchecked, []
        if not unchecked:
            return
        values = torch.stack([loss.float() for _, loss in unchecked]).tolist()
        for (record, _), value in zip(unchecked, values):
            at_hand = batches if record.iteration == run.iteration else ()
            if not math.isfinite(value):
                self._fail(run, record, value, at_hand)
            if self._is_spike(value):
                path = _store(run, record, value, at_hand)
                usual = median(self._usual)
                log.warning(
                    "the loss is %.4g at iteration %d, usually %.4g\n    seg-kernel replay %s",
                    *(value, record.iteration, usual, path),
                )
            self._usual.append(value)

    def _is_spike(self, value: float) -> bool:
        enough = len(self._usual) >= USUAL // 5
        return self.spike is not None and enough and value > self.spike * median(self._usual)

    def _fail(self, run: Run, record: BatchRecord, value: float, batches: Sequence[Batch]) -> None:
        """Raise `TrainingError`."""
        path = _store(run, record, value, batches)
        last = max((run.work_dir / "checkpoints").glob("iter_*.pt"), default=None)
        saved = f"the last good checkpoint is {last}" if last else "nothing was saved before"
        listed = "\n    ".join(name for names in record.names for name in names)
        raise TrainingError(
            f"the loss is {value} at iteration {record.iteration}; {saved}\n"
            "    lower the learning rate, clip gradients (optim.clip_grad), or inspect this batch: "
            f"seg-kernel replay {path}\n    {listed}"
        )


def _store(run: Run, record: BatchRecord, value: float, batches: Sequence[Batch]) -> Any:
    record.loss = str(value)
    record.digest = digest(batches) if batches else None
    return record.save(run)
