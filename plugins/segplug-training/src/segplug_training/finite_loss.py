"""`FiniteLossHook`: a loss that is not finite ends the run, with the names of its batch, before anything is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from segkernel.annotations import PositiveInt
from segkernel.engine import sample_names
from segkernel.errors import TrainingError
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from segkernel.hookspecs import Run
    from segkernel.sample import Batch


class FiniteLossHook:
    """Stop when a loss is not finite.

    It is looked at in every iteration where that is free, on a device, which would be waited for, once in many; always
    before a validation and before a checkpoint is written.

    Args:
        interval: Iterations between two looks at the losses on a device.
    """

    priority = Priority.VERY_HIGH

    def __init__(self, interval: PositiveInt = 50) -> None:
        self.interval = interval
        self._unchecked: list[tuple[int, list[str], Tensor]] = []

    @hookimpl
    def before_train(self) -> None:
        self._unchecked = []

    @hookimpl
    def after_train_iteration(self, run: Run, batches: list[Batch], losses: Mapping[str, Any]) -> None:
        self._unchecked.append((run.iteration, sample_names(batches), losses["loss"]))
        if run.engine.device.type == "cpu" or len(self._unchecked) >= self.interval:
            self._check(run)

    @hookimpl
    def before_validation(self, run: Run) -> None:
        self._check(run)

    @hookimpl
    def save_checkpoint(self, run: Run) -> None:
        self._check(run)

    @hookimpl
    def after_train(self, run: Run) -> None:
        self._check(run)

    def _check(self, run: Run) -> None:
        """Raise `TrainingError` if a loss since the last check is not finite."""
        unchecked, self._unchecked = self._unchecked, []
        if not unchecked or bool(torch.isfinite(torch.stack([loss.float() for _, _, loss in unchecked])).all()):
            return
        iteration, names, loss = next(entry for entry in unchecked if not math.isfinite(entry[2]))
        last = max((run.work_dir / "checkpoints").glob("iter_*.pt"), default=None)
        saved = f"the last good checkpoint is {last}" if last else "nothing was saved before"
        listed = "\n    ".join(names)
        raise TrainingError(
            f"the loss is {float(loss)} at iteration {iteration}; {saved}\n"
            f"    lower the learning rate, clip gradients (optim.clip_grad), or look at this batch:\n    {listed}"
        )
