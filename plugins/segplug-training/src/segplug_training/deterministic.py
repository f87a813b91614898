"""`Determinism`: torch's deterministic algorithms, with the module at fault named where there is none."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segkernel.errors import UsageError

log = logging.getLogger(__name__)

Mode = Literal["warn", "strict"]
_ALERT = re.compile(
    r"(\S+) does not have a deterministic implementation|(Memory Efficient attention) .*non-deterministic"
)
_OTHERS = "use another layer, loss or interpolation, or engine.device=cpu"


class Determinism:
    """Switches torch to deterministic algorithms and names each operation that has none.

    Args:
        mode: ``warn`` logs the operations without a deterministic algorithm, ``strict`` stops the run at the first.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=mode == "warn")
        self._reported: set[str] = set()
        self._modules: list[str] = []  # modules whose forward is running, the innermost last
        self._used: dict[str, list[str]] | None = None

    @contextmanager
    def watching(self, model: nn.Module, follow: bool = True) -> Iterator[None]:
        """Name the operations at fault in a step; with ``follow``, the first step records which module uses which.

        Raises:
            UsageError: In strict mode, at an operation that is not deterministic.
        """
        with ExitStack() as stack:
            stack.enter_context(self._warnings())
            if follow and self._used is None:
                self._used = {}
                stack.enter_context(self._followed(model, self._used))
            try:
                yield
            except RuntimeError as error:
                found = _ALERT.match(str(error))
                if found is None:
                    raise
                culprit = self._culprit(found[1] or found[2])
                raise UsageError(
                    f"engine.deterministic: strict, and {culprit} has no deterministic algorithm on this device\n"
                    f"    {_OTHERS}, or deterministic: warn"
                ) from error
            finally:
                self._modules = []

    @contextmanager
    def _warnings(self) -> Iterator[None]:
        """Replace torch's warnings about operations by ours, with their module; others are shown unchanged."""
        with warnings.catch_warnings():
            shown = warnings.showwarning
            warnings.filterwarnings("always", message=".*determinis")

            def show(message: Any, *arguments: Any, **named: Any) -> None:
                found = _ALERT.match(str(message))
                if found is None:
                    shown(message, *arguments, **named)
                else:
                    self._say(found[1] or found[2])

            warnings.showwarning = show
            yield

    def _say(self, operation: str) -> None:
        culprit = self._culprit(operation)
        if culprit not in self._reported:
            self._reported |= {culprit, operation}  # so that it is not reported again without its module
            log.warning("engine.deterministic: %s is not repeatable on this device; %s", culprit, _OTHERS)

    def _culprit(self, operation: str) -> str:
        """Return the operation and the modules that it may belong to: a backward pass runs in no module."""
        names = [self._modules[-1]] if self._modules else modules_of(operation, self._used or {})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"{operation} ({', '.join(names[:3])}{more})" if names else operation

    @contextmanager
    def _followed(self, model: nn.Module, used: dict[str, list[str]]) -> Iterator[None]:
        handles: list[Any] = []
        for name, module in model.named_modules():
            enter = lambda module, inputs, name=name: self._modules.append(name or type(module).__name__)  # noqa: E731
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(lambda module, inputs, output: self._leave()))
        try:
            with _Operations(self._modules, used):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _leave(self) -> None:
        if self._modules:
            self._modules.pop()


class _Operations(TorchDispatchMode):
    """Records which modules use each operation of a forward pass."""

    def __init__(self, modules: list[str], used: dict[str, list[str]]) -> None:
        super().__init__()
        self.modules, self.used = modules, used

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.modules:
            names = self.used.setdefault(func._schema.name.partition("::")[2], [])
            if self.modules[-1] not in names:
                names.append(self.modules[-1])
        return func(*args, **(kwargs or {}))


def modules_of(operation: str, used: Mapping[str, list[str]]) -> list[str]:
    """Return the modules whose forward pass uses an operation, such as ``upsample_bilinear2d_backward_out_cuda``."""
    fitting = [name for name in used if operation.lstrip("_").startswith(name.strip("_"))]
    return used[max(fitting, key=len)] if fitting else []
