"""The module that engines wrap and compile, whose ``forward`` is the segmentor's loss, and its compiled form."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segkernel.interfaces.model import Segmentor
from segkernel.sample import Targets

log = logging.getLogger(__name__)

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
"""Modes of `torch.compile`; ``reduce-overhead`` and ``max-autotune`` record CUDA graphs."""


class LossModule(nn.Module):
    """The segmentor's loss as a ``forward``, which DistributedDataParallel and the compiler need."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        return self.segmentor.loss(images, targets)


class Compiled:
    """A function that torch compiles on the first call; if that fails, it runs uncompiled and logs the reason once.

    The backward pass is compiled together with the forward pass, so that its failure shows here, before any gradient
    is computed. Older releases of torch only compile it when it runs, where a failure ends the run.

    Args:
        function: Function or module to compile.
        options: Keyword arguments of `torch.compile`.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.function, self.options = function, options
        self._compiled: Callable[..., Any] | None = None
        self.failed = False

    def __call__(self, *arguments: Any) -> Any:
        if self.failed:
            return self.function(*arguments)
        try:
            if self._compiled is None:
                self._compiled = torch.compile(self.function, **self.options)
            with _backward_included():
                return self._compiled(*arguments)
        except RuntimeError as error:
            if not _is_of_the_compiler(error):
                raise
            self.failed, self._compiled = True, None
            log.warning("engine.compile: compilation failed, the model runs uncompiled: %s", _reason(error))
            return self.function(*arguments)


def _backward_included() -> AbstractContextManager[Any]:
    """Return a context in which torch compiles the backward pass at once."""
    import torch._functorch.config as config

    option = "force_non_lazy_backward_lowering"
    return config.patch({option: True}) if hasattr(config, option) else nullcontext()


def _is_of_the_compiler(error: RuntimeError) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    unsupported = "torch.compile" in str(error) or "Dynamo is not supported" in str(error)
    return isinstance(error, TorchDynamoException) or unsupported


def _reason(error: BaseException) -> str:
    """Return the first two lines that are not empty: the first alone is often only the compiler's name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
