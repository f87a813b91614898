"""`EmptyCacheHook`: releases cached GPU memory, for other processes or against fragmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from segkernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run


class EmptyCacheHook:
    """Empty the cache of torch's GPU allocator; does nothing on the CPU.

    Args:
        before_epoch: Empty it before training and before each validation.
        after_epoch: Empty it after each epoch and each validation.
        after_iter: Empty it after each iteration; slow.
    """

    def __init__(self, before_epoch: bool = False, after_epoch: bool = True, after_iter: bool = False) -> None:
        self.before_epoch, self.after_epoch, self.after_iter = before_epoch, after_epoch, after_iter

    @hookimpl
    def before_train(self, run: Run) -> None:
        _empty(run, self.before_epoch)

    @hookimpl
    def before_validation(self, run: Run) -> None:
        _empty(run, self.before_epoch)

    @hookimpl
    def after_train_epoch(self, run: Run) -> None:
        _empty(run, self.after_epoch)

    @hookimpl
    def validation_ended(self, run: Run) -> None:
        _empty(run, self.after_epoch)

    @hookimpl
    def after_iteration(self, run: Run) -> None:
        _empty(run, self.after_iter)


def _empty(run: Run, is_enabled: bool) -> None:
    if is_enabled and run.engine.device.type == "cuda":
        torch.cuda.empty_cache()
