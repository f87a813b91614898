"""Prediction of the memory of an optimiser step, without allocating it.

The step runs on fake tensors, which have shape, dtype and device but no values, and the sizes of live storages are
summed. Overhead of allocators and libraries is not included: a few percent, and on a GPU some hundred MiB.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from segkernel import Runner
from segkernel.sample import Batch

aten = torch.ops.aten


@dataclass
class StepMemory:
    """Memory of a step at its peak.

    Args:
        weights: Bytes of parameters and buffers.
        gathered: Bytes of parameters that a rank gathers from others' shards.
        optimizer: Bytes of the optimiser's state.
        gradients: Bytes of the gradients that exist at the peak.
        activations: Other bytes at the peak: feature maps kept for the backward pass, the batch, the loss.
        parts: Bytes of the activations that the forward pass of each part of the model has allocated; the others are
            the batch, and what the backward pass and the optimiser allocate.
        shapes: Output shapes of each part of the model, by name.
        at_most: Whether it is an upper bound, because sizes depend on values, such as the pixels that a mask selects.
        failure: Reason why only weights and optimiser are known; None if all are.
    """

    weights: int = 0
    gathered: int = 0
    optimizer: int = 0
    gradients: int = 0
    activations: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    at_most: bool = False
    failure: str | None = None

    @property
    def peak(self) -> int:
        return self.weights + self.gathered + self.optimizer + self.gradients + self.activations


def make_fake(model: nn.Module, device: torch.device) -> FakeTensorMode:
    """Replace the parameters and buffers of a model on ``meta`` by fake ones on a device; return their mode."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Any] = {}  # shared parameters stay shared
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = FakeTensor(mode, parameter.detach(), device)
                module._parameters[name] = made.setdefault(id(parameter), nn.Parameter(fake, parameter.requires_grad))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = made.setdefault(id(buffer), FakeTensor(mode, buffer.to("meta"), device))
    model.to = lambda *args, **kwargs: model  # type: ignore[method-assign]  # torch cannot move fake parameters
    return mode


def predict_memory(runner: Runner, mode: FakeTensorMode, batch: Batch) -> StepMemory:
    """Return the memory of a step of ``runner``, whose model is fake, with micro-batches like ``batch``."""
    tracker, found = MemoryTracker(distinct=_distinct(batch)), StepMemory()
    model, optimizer = runner.model.train(), runner.optimizer
    runner.preprocessor.train()
    fake = batch.map(mode.from_tensor)
    for tensor in (*model.parameters(), *model.buffers()):
        tracker.add(tensor)
    found.weights = tracker.current
    fake.map(tracker.add)
    try:
        with mode, tracker, _Arrays(), _recorded(model, found.shapes, tracker):
            runner.engine.train_step([fake])  # creates the optimiser's state
            tracker.forget_peak()
            runner.engine.train_step([fake] * min(runner.accumulate, 2))  # further ones add nothing
    except (RuntimeError, NotImplementedError, ValueError, TypeError, LookupError, AssertionError) as error:
        found.failure = f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
        _make_state(optimizer, mode)
    states = optimizer.state.values() if optimizer is not None else ()
    found.optimizer = sum(t.nbytes for state in states for t in state.values() if isinstance(t, Tensor))
    found.at_most = tracker.at_most
    if found.failure is None:
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found.gradients = sum(grad.nbytes for grad in grads if tracker.was_there(grad))
        found.activations = tracker.peak - found.weights - found.optimizer - found.gradients
        found.parts = {name: tracker.parts_at_peak[name] for name in found.shapes}
    return found


def _make_state(optimizer: torch.optim.Optimizer | None, mode: FakeTensorMode) -> None:
    """Create an optimiser's state when the training step failed."""
    groups = optimizer.param_groups if optimizer is not None else []
    with mode, MemoryTracker(), suppress(RuntimeError, NotImplementedError, TypeError):
        for parameter in (each for group in groups for each in group["params"]):
            parameter.grad = torch.zeros_like(parameter)
        if optimizer is not None:
            optimizer.step()


class MemoryTracker(TorchDispatchMode):
    """Sums the sizes of live storages while active, and assumes results that depend on values.

    Args:
        distinct: Number of distinct values to assume in a label tensor.
    """

    def __init__(self, distinct: int = 1) -> None:
        super().__init__()
        self.distinct, self.at_most = distinct, False
        self.current = self.peak = 0
        self.part = ""
        """Name of the model's part whose forward pass runs, or has run last; empty outside of the forward pass."""
        self.parts_at_peak: Counter[str] = Counter()
        self._parts: Counter[str] = Counter()
        self._clock = self._peak_at = 0
        self._born: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        if storage not in self._born:
            self._clock += 1
            self._born[storage] = self._clock
            size = storage.nbytes()
            if torch._C._current_graph_task_id() != -1:
                self.part = ""
            self.current += size
            self._parts[self.part] += size
            weakref.finalize(storage, self._free, size, self.part)
            if self.current > self.peak:
                self.forget_peak()
        return tensor

    def _free(self, size: int, part: str) -> None:
        self.current -= size
        self._parts[part] -= size

    def forget_peak(self) -> None:
        """Measure the peak from now on."""
        self.peak, self._peak_at, self.parts_at_peak = self.current, self._clock, self._parts.copy()

    def was_there(self, tensor: Tensor) -> bool:
        """Whether the storage of a live tensor existed at the peak."""
        return self._born.get(tensor.untyped_storage(), self._clock) <= self._peak_at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._unique2.default:
            result = _unique(args[0], self.distinct)
        elif func in _AT_MOST:
            result = _AT_MOST[func](*args, **(kwargs or {}))
            self.at_most |= func is not aten.index.Tensor or any(map(_is_mask, args[1]))
        else:
            result = _SUPPOSED.get(func, func)(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.add, result)
        return result


class _Arrays(TorchFunctionMode):
    """Returns numpy arrays of zeros for fake tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.numpy and isinstance(args[0], FakeTensor):
            return np.zeros(tuple(args[0].shape), str(args[0].dtype).removeprefix("torch."))
        return func(*args, **(kwargs or {}))


# ---------------------------------------------------------------- upper bounds of sizes that depend on values


def _scalar(tensor: Tensor) -> Any:
    if not isinstance(tensor, FakeTensor):
        return aten._local_scalar_dense.default(tensor)
    return True if tensor.dtype is torch.bool else 1.0 if tensor.is_floating_point() else 1


def _nonzero(tensor: Tensor) -> Tensor:
    return tensor.new_empty((tensor.numel(), tensor.ndim), dtype=torch.long)


def _index(tensor: Tensor, indices: list[Tensor | None]) -> Tensor:
    places: list[Tensor | None] = []
    for index in indices:
        if index is None or not _is_mask(index):
            places.append(index)
        else:
            places += [index.new_empty(index.numel(), dtype=torch.long) for _ in range(index.ndim)]
    result: Tensor = aten.index.Tensor(tensor, places)
    return result


def _masked_select(tensor: Tensor, mask: Tensor) -> Tensor:
    return tensor.new_empty(torch.broadcast_shapes(tensor.shape, mask.shape).numel())


def _unique(tensor: Tensor, distinct: int) -> tuple[Tensor, Tensor, Tensor]:
    count = min(distinct, tensor.numel())
    return (
        tensor.new_empty(count),
        tensor.new_empty(tensor.shape, dtype=torch.long),
        tensor.new_empty(count, dtype=torch.long),
    )


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _distinct(batch: Batch) -> int:
    """Return the maximum number of distinct labels in one sample."""
    fields = [value for value in batch.targets.fields.values() if isinstance(value, Tensor)]
    labels = [each for value in fields if not value.is_floating_point() for each in value]
    return max((len(each.unique()) for each in labels), default=1)


_SUPPOSED: Mapping[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: _scalar,
    aten.equal.default: lambda one, other: True,
}
_AT_MOST: Mapping[Any, Callable[..., Any]] = {
    aten.nonzero.default: _nonzero,
    aten.index.Tensor: _index,
    aten.masked_select.default: _masked_select,
}


@contextmanager
def _recorded(model: nn.Module, shapes: dict[str, list[tuple[int, ...]]], tracker: MemoryTracker) -> Iterator[None]:
    """Record the output shapes of each part of a model: its own, or else those of its last module; and which part runs.

    A head's loss, which runs after its last module, counts as the head.
    """

    def enter(part: str) -> None:
        tracker.part = part

    def note(part: str, output: Any) -> None:
        if torch._C._current_graph_task_id() == -1:  # skip recomputation in the backward pass
            found: list[tuple[int, ...]] = []
            tree_map_only(Tensor, lambda tensor: found.append(tuple(tensor.shape)), output)
            found = [shape for shape in found if len(shape) > 2]  # no losses
            shapes[part] = found or shapes.get(part, [])

    modules = [(part, module) for part, child in model.named_children() for module in child.modules()]
    handles = [
        *(module.register_forward_pre_hook(lambda module, inputs, part=part: enter(part)) for part, module in modules),
        *(module.register_forward_hook(lambda *seen, part=part: note(part, seen[-1])) for part, module in modules),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
