"""Cost of every module of a model: parameters, operations, time and memory of a forward pass.

costs = module_costs(model, torch.randn(1, 3, 512, 512))
costs["backbone.layer1"].seconds
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class ModuleCost:
    """Cost of a module with all modules inside it, over all its calls in one pass.

    Args:
        kind: Name of its class.
        parameters: Number of parameters; shared ones count once.
        calls: Number of calls.
        flops: Floating-point operations, two for each multiplication with its addition.
        seconds: Median over the timed passes.
        memory: Bytes by which live tensors grow at most during a call; weights are not included.
        shapes: Shapes of the outputs of the last call.
    """

    kind: str
    parameters: int = 0
    calls: int = 0
    flops: int = 0
    seconds: float = 0.0
    memory: int = 0
    shapes: list[tuple[int, ...]] = field(default_factory=list)


@torch.no_grad()
def module_costs(model: nn.Module, images: Tensor, repeats: int = 5) -> dict[str, ModuleCost]:
    """Measure the forward pass of a model in evaluation mode.

    Args:
        model: The model, on the device of ``images``.
        images: (N, C, H, W).
        repeats: Number of timed passes, after one that is not.

    Returns:
        Costs by module name, "" is the model; modules that are not called have no calls.
    """
    model.eval()
    costs = {name: ModuleCost(type(module).__name__, _parameters(module)) for name, module in model.named_modules()}
    live = _LiveMemory()
    with live, FlopCounterMode(display=False) as flops, _around(model, lambda name: _Counted(costs[name], live, flops)):
        model(images)
    times: dict[str, list[float]] = {name: [] for name in costs}
    for number in range(repeats + 1):
        passed = dict.fromkeys(costs, 0.0)
        with _around(model, lambda name, passed=passed: _Timed(name, passed, images.device)):  # type: ignore[misc]
            model(images)
        if number:  # the first pass chooses algorithms and fills caches
            for name, seconds in passed.items():
                times[name].append(seconds)
    for name, measured in times.items():
        costs[name].seconds = statistics.median(measured)
    return costs


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class _Counted:
    """Adds the operations and the memory of a call to the cost of its module."""

    def __init__(self, cost: ModuleCost, live: _LiveMemory, flops: FlopCounterMode) -> None:
        self._cost, self._live, self._flops = cost, live, flops
        self._flops_before, self._before = flops.get_total_flops(), live.enter()

    def finish(self, output: Any) -> None:
        self._cost.calls += 1
        self._cost.flops += self._flops.get_total_flops() - self._flops_before
        self._cost.memory = max(self._cost.memory, self._live.leave() - self._before)
        self._cost.shapes = [tuple(leaf.shape) for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]


class _Timed:
    def __init__(self, name: str, passed: dict[str, float], device: torch.device) -> None:
        self._name, self._passed, self._device = name, passed, device
        self._start = self._now()

    def finish(self, output: Any) -> None:
        self._passed[self._name] += self._now() - self._start

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@contextmanager
def _around(model: nn.Module, begin: Callable[[str], Any]) -> Iterator[None]:
    """Call ``begin(name)`` before each module, and ``finish(output)`` of what it returned after it."""
    open_calls: list[Any] = []
    handles = []
    for name, module in model.named_modules():
        before = lambda *_, name=name: open_calls.append(begin(name))  # noqa: E731
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(lambda _, __, output: open_calls.pop().finish(output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _LiveMemory(TorchDispatchMode):
    """Sums the bytes of the tensors that live, and their peak in each of the nested calls that are running."""

    def __init__(self) -> None:
        super().__init__()
        self._current = 0
        self._peaks: list[int] = []
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def enter(self) -> int:
        """Begin a call; return the bytes that live."""
        self._peaks.append(self._current)
        return self._current

    def leave(self) -> int:
        """End a call; return the peak during it."""
        peak = self._peaks.pop()
        if self._peaks:
            self._peaks[-1] = max(self._peaks[-1], peak)
        return peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage() for leaf in tree_flatten(args)[0] if isinstance(leaf, Tensor)}
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage()) not in self._known | given:
                self._known.add(storage)
                self._current += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        if self._peaks:
            self._peaks[-1] = max(self._peaks[-1], self._current)
        return result

    def _free(self, size: int) -> None:
        self._current -= size
