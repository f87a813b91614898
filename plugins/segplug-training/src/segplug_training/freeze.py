"""`FreezeHook`: freezes parts of a model for some iterations.

hooks:
  - {type: FreezeHook, parts: [backbone], end: 2000}              # all is trained from iteration 2000 on
  - {type: FreezeHook, parts: [decode_head.norm], begin: 2000}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.errors import UsageError, suggest
from segkernel.hookspecs import Priority, hookimpl
from segplug_training.begin_check import check_begin

if TYPE_CHECKING:
    from torch import nn

    from segkernel.hookspecs import Run


class FreezeHook:
    """Freeze parts of the model during iterations ``begin`` <= i < ``end``, or epochs.

    Their parameters get no gradient and no weight decay.

    Args:
        parts: Names of modules, ``backbone`` or ``backbone.layer1``.
        begin: First iteration, or epoch, counted from 0.
        end: Iteration, or epoch, to release them at; None never does.
        by_epoch: Whether ``begin`` and ``end`` are epochs.
        eval_mode: Put norm and dropout layers into evaluation mode.
    """

    priority = Priority.HIGH
    conformance: ClassVar = {"parts": ("backbone",)}

    def __init__(
        self,
        parts: Sequence[str],
        begin: NonNegativeInt = 0,
        end: PositiveInt | None = None,
        by_epoch: bool = False,
        eval_mode: bool = True,
    ) -> None:
        if end is not None and end <= begin:
            raise UsageError(f"FreezeHook: end {end} must be greater than begin {begin}")
        self.parts, self.begin, self.end, self.by_epoch, self.eval_mode = list(parts), begin, end, by_epoch, eval_mode
        self._frozen: list[nn.Parameter] = []

    @hookimpl
    def before_train(self, run: Run) -> None:
        list(self._modules(run.model))  # report a wrong name now
        if run.engine.world_size > 1 and not getattr(run.engine, "may_freeze", False):
            kind = type(run.engine).__name__
            raise UsageError(f"FreezeHook: {kind} cannot freeze parts on several processes; use DDPEngine")
        check_begin(run, "FreezeHook", "begin", self.begin, counted_from=0, by_epoch=self.by_epoch)

    @hookimpl
    def before_train_iteration(self, run: Run) -> None:
        now = int(run.epoch) if self.by_epoch else run.iteration
        if self.begin <= now and (self.end is None or now < self.end):
            self._freeze(run.model)
        else:
            self._unfreeze(run.model)

    @hookimpl
    def after_train(self, run: Run) -> None:
        self._unfreeze(run.model)

    def _freeze(self, model: nn.Module) -> None:
        for module in self._modules(model):
            if self.eval_mode and module.training:
                module.eval()
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.requires_grad_(False)
                    self._frozen.append(parameter)

    def _unfreeze(self, model: nn.Module) -> None:
        if self._frozen:
            for parameter in self._frozen:
                parameter.requires_grad_(True)
            for module in self._modules(model):
                module.train(model.training)
            self._frozen = []

    def _modules(self, model: nn.Module) -> Iterator[nn.Module]:
        for name in self.parts:
            try:
                yield model.get_submodule(name)
            except AttributeError:
                near = suggest(name, [known for known, _ in model.named_modules() if known])
                raise UsageError(f"FreezeHook: the model has no module {name!r}; {near}") from None
