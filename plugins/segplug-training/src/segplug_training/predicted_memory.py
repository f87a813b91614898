"""Prediction of the memory of an optimiser step, without allocating it.

The step runs on fake tensors, which have shape, dtype and device but no values, and the sizes of live storages are
summed. Overhead of allocators and libraries is not included: some percent, on a GPU some hundred MiB.
"""

from __future__ import annotations

import weakref
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
        optimizer: Bytes of the optimiser's state.
        gradients: Bytes of the gradients alive at the peak.
        activations: Bytes of all else at the peak: feature maps kept for the backward pass, the batch, the loss.
        shapes: Output shapes of each part of the model, by name.
        at_most: Whether a part depends on values, such as how many pixels a mask selects, and was counted in full.
        failure: Why only weights and optimiser are known, if so.
    """

    weights: int = 0
    optimizer: int = 0
    gradients: int = 0
    activations: int = 0
    shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    at_most: bool = False
    failure: str | None = None

    @property
    def peak(self) -> int:
        return self.weights + self.optimizer + self.gradients + self.activations


def make_fake(model: nn.Module, device: torch.device) -> FakeTensorMode:
    """Turn the parameters and buffers of a model on ``meta`` into fake ones of a device; return their mode."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Any] = {}  # a parameter that two modules share stays one
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = FakeTensor(mode, parameter.detach(), device)
                module._parameters[name] = made.setdefault(id(parameter), nn.Parameter(fake, parameter.requires_grad))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = made.setdefault(id(buffer), FakeTensor(mode, buffer.to("meta"), device))
    model.to = lambda *args, **kwargs: model  # type: ignore[method-assign]  # torch moves no fake parameters
    return mode


def predict_memory(runner: Runner, mode: FakeTensorMode, batch: Batch) -> StepMemory:
    """Return what a step of ``runner``, whose model is fake, takes with micro-batches like ``batch``."""
    tracker, found = MemoryTracker(distinct=_distinct(batch)), StepMemory()
    model, optimizer = runner.model.train(), runner.optimizer
    runner.preprocessor.train()
    fake = batch.map(mode.from_tensor)
    for tensor in (*model.parameters(), *model.buffers()):
        tracker.add(tensor)
    found.weights = tracker.current
    fake.map(tracker.add)
    try:
        with mode, tracker, _Arrays(), _recorded(model, found.shapes):
            runner.engine.train_step([fake])  # makes the optimiser's state
            tracker.forget_peak()
            runner.engine.train_step([fake] * min(runner.accumulate, 2))  # more are like the second
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
    return found


def _make_state(optimizer: torch.optim.Optimizer | None, mode: FakeTensorMode) -> None:
    """Let an optimiser make its state where no step could be followed."""
    groups = optimizer.param_groups if optimizer is not None else []
    with mode, MemoryTracker(), suppress(RuntimeError, NotImplementedError, TypeError):
        for parameter in (each for group in groups for each in group["params"]):
            parameter.grad = torch.zeros_like(parameter)
        if optimizer is not None:
            optimizer.step()


class MemoryTracker(TorchDispatchMode):
    """While it is active, adds up the storages that are alive, and answers what only values could.

    Args:
        distinct: How many different values a tensor of labels has.
    """

    def __init__(self, distinct: int = 1) -> None:
        super().__init__()
        self.distinct, self.at_most = distinct, False
        self.current = self.peak = 0
        self._clock = self._peak_at = 0
        self._born: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage, once, for as long as it lives."""
        storage = tensor.untyped_storage()
        if storage not in self._born:
            self._clock += 1
            self._born[storage] = self._clock
            size = storage.nbytes()
            self.current += size
            weakref.finalize(storage, self._free, size)
            if self.current > self.peak:
                self.peak, self._peak_at = self.current, self._clock
        return tensor

    def _free(self, size: int) -> None:
        self.current -= size

    def forget_peak(self) -> None:
        """Look for the peak from now on."""
        self.peak, self._peak_at = self.current, self._clock

    def was_there(self, tensor: Tensor) -> bool:
        """Whether the storage of a tensor that is alive was there at the peak."""
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
    """Gives numpy zeros where it asks for values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.numpy and isinstance(args[0], FakeTensor):
            return np.zeros(tuple(args[0].shape), str(args[0].dtype).removeprefix("torch."))
        return func(*args, **(kwargs or {}))


# ---------------------------------------------------------------- what depends on values: the most that it can take


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
    """Return the most values that the labels of one sample have."""
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
def _recorded(model: nn.Module, shapes: dict[str, list[tuple[int, ...]]]) -> Iterator[None]:
    """Note the shapes that each part of a model gives: what it returns, or else its last module."""

    def note(part: str, output: Any) -> None:
        if torch._C._current_graph_task_id() == -1:  # not what a backward pass computes again
            found: list[tuple[int, ...]] = []
            tree_map_only(Tensor, lambda tensor: found.append(tuple(tensor.shape)), output)
            found = [shape for shape in found if len(shape) > 2]  # no losses
            shapes[part] = found or shapes.get(part, [])

    handles = [
        module.register_forward_hook(lambda module, inputs, output, part=part: note(part, output))
        for part, child in model.named_children()
        for module in child.modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
