"""Modules of a model that are exchanged for faster ones, neighbours for a single one.

    fuse_modules(model.eval())
    fold_batch_norms(model)
    use_onednn(model)

Neighbours are found by running the model once on noise, and the result is checked by running it again.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from segkernel.nn import Concat
from segplug_deploy.chain import ConvChain
from segplug_deploy.concat import SplitConv
from segplug_deploy.onednn import ACTIVATIONS, OneDNNConv2d, OneDNNLinear
from segplug_deploy.winograd import WinogradConv2d, pays

log = logging.getLogger(__name__)

TOLERANCE = 1e-2
"""Largest difference that a change may make, relative to the largest logit."""
M = TypeVar("M", bound=nn.Module)
Kinds = tuple[type[nn.Module], ...]
Call = Callable[[Tensor], Any]
Pairs = list[tuple[Any, Any]]
"""A module, and the one that alone uses its result."""


def fuse_modules(model: nn.Module) -> int:
    """Replace every module that has a method ``fused() -> nn.Module`` by its result; return their number.

    Such a module is simpler in evaluation mode than in training: its parallel branches are one convolution (RepVGG,
    MobileOne), or a low-rank update is added to its weight (LoRA). ``fused`` returns a new module with the same outputs
    up to rounding, and leaves the original unchanged.

    Args:
        model: Changed in place, in evaluation mode; not itself replaced.
    """
    count = 0
    for name, child in [*model.named_children()]:
        fused: Any = getattr(child, "fused", None)
        if callable(fused):
            setattr(model, name, fused().eval())
            count += 1
        else:
            count += fuse_modules(child)
    return count


def fused_copy(model: M) -> M:
    """Return a copy after `fuse_modules`, with the parameters of the model where they do not change; the model itself
    if there is nothing to fuse."""
    if not any(callable(getattr(module, "fused", None)) for module in model.modules()):
        return model
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})
    fuse_modules(copied)
    return copied


def fold_batch_norms(model: nn.Module) -> int:
    """Fold every batch norm of a model whose input is the result of a convolution that nothing else uses.

    Returns their number; none where the model cannot be run, or where its results are others afterwards.
    """

    def parts(pairs: Pairs) -> dict[nn.Module, nn.Module]:
        folded = {conv: fuse_conv_bn_eval(conv, norm) for conv, norm in pairs}
        return {norm: nn.Identity() for _, norm in pairs} | folded

    return _exchange(model, (nn.Conv2d,), (_BatchNorm,), parts, "batch norms are not folded")


def use_onednn(model: nn.Module, winograd: bool = True) -> int:
    """Let oneDNN compute the convolutions and linear layers of a model, together with the activations after them.

    Args:
        model: Changed in place; in evaluation mode. One that cannot be run on noise is left as it is.
        winograd: Use `WinogradConv2d` where it pays.

    Returns:
        The number of activations that became a part of the layer before them.
    """

    def faster(layer: nn.Module, activation: nn.Module | None = None) -> nn.Module:
        if type(layer) is nn.Linear:
            return OneDNNLinear.of(layer, activation)
        assert isinstance(layer, nn.Conv2d)
        kind = WinogradConv2d if winograd and pays(layer) else OneDNNConv2d
        return kind.of(layer, activation)

    def parts(pairs: Pairs) -> dict[nn.Module, nn.Module]:
        fused = [(layer, activation) for layer, activation in pairs if _fits(layer)]
        single = {layer: faster(layer) for layer in model.modules() if _fits(layer)}
        return (
            single
            | {activation: nn.Identity() for _, activation in fused}
            | {layer: faster(layer, activation) for layer, activation in fused}
        )

    return _exchange(model, (nn.Conv2d, nn.Linear), tuple(ACTIVATIONS), parts, "oneDNN is not used")


def split_concatenations(model: nn.Module) -> int:
    """Let `SplitConv` compute the convolutions of `use_onednn` that follow a concatenation; return their number."""
    channels = {}

    def note(concat: nn.Module, args: Any) -> Any:
        maps = [*args[0]]
        channels[concat] = [each.shape[1] for each in maps]
        return (maps,)

    def parts(pairs: Pairs) -> dict[nn.Module, nn.Module]:
        new = {conv: SplitConv(conv, channels[concat]) for concat, conv in pairs if conv.groups == 1}
        return new | {concat: nn.Identity() for concat, conv in pairs if conv in new}

    hooks = [module.register_forward_pre_hook(note) for module in model.modules() if type(module) is Concat]
    try:
        return _exchange(model, (Concat,), (OneDNNConv2d, WinogradConv2d), parts, "concatenations are computed")
    finally:
        for hook in hooks:
            hook.remove()


def chain_convolutions(model: nn.Module) -> int:
    """Let `ConvChain` compute the convolutions of `use_onednn` that follow each other; return their number less one."""

    def parts(pairs: Pairs) -> dict[nn.Module, nn.Module]:
        following, later = dict(pairs), {second for _, second in pairs}
        new: dict[nn.Module, nn.Module] = {second: nn.Identity() for second in later}
        for first in following.keys() - later:
            convolutions = [first]
            while convolutions[-1] in following:
                convolutions.append(following[convolutions[-1]])
            new[first] = ConvChain(convolutions)
        return new

    # In evaluation mode they return their input.
    _replace(model, {module: nn.Identity() for module in model.modules() if isinstance(module, _DropoutNd)})
    kinds = (OneDNNConv2d, WinogradConv2d)
    return _exchange(model, kinds, kinds, parts, "convolutions are not computed in strips")


@torch.no_grad()
def drop_unread_maps(model: nn.Module) -> int:
    """Let backbones with ``out_indices`` return None in place of the maps that ``predict`` does not read.

    Auxiliary heads read them: the losses of the model cannot be computed afterwards. Returns the number of such maps.
    """

    predict: Any = model.predict
    backbones = {type(module) for module in model.modules() if isinstance(getattr(module, "out_indices", None), tuple)}
    run = _example(model, tuple(backbones), (), predict) if backbones else None
    if run is None:
        return 0
    image, before, tracer = run
    dropped = 0
    for backbone, maps in [*tracer.results.values()]:
        indices: Any = backbone.out_indices
        kept = [position for position, each in enumerate(maps) if tracer.uses[id(each)]]
        if not len(maps) == len(indices) > len(kept) > 0:
            continue
        backbone.out_indices = tuple(indices[position] for position in kept)  # type: ignore[assignment]
        hook = backbone.register_forward_hook(partial(_spread, kept, len(indices)))
        if _gives(predict, image, before):
            dropped += len(indices) - len(kept)
        else:
            hook.remove()
            backbone.out_indices = indices
    return dropped


def _spread(positions: Sequence[int], count: int, module: nn.Module, args: Any, maps: Sequence[Tensor]) -> Any:
    """Return ``count`` maps, None except at these positions; a forward hook."""
    found = dict(zip(positions, maps, strict=True))
    return tuple(found.get(position) for position in range(count))


def _fits(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear


@torch.no_grad()
def _exchange(
    model: nn.Module,
    producers: Kinds,
    consumers: Kinds,
    parts: Callable[[Pairs], dict[nn.Module, nn.Module]],
    failure: str,
) -> int:
    """Exchange modules of a model, if its results stay the same.

    Args:
        model: Changed in place; in evaluation mode.
        producers: Exact types of the first modules of pairs.
        consumers: Types of the second ones.
        parts: From the pairs to the modules that change, each with what replaces it.
        failure: What the log says if the results are others, and the change is undone.

    Returns:
        The number of modules exchanged.
    """
    run = _example(model, producers, consumers)
    if run is None:
        return 0
    image, before, tracer = run
    pairs = tracer.pairs()
    new = parts(pairs)
    _replace(model, new)
    if _gives(model, image, before):
        return len(pairs)
    _replace(model, {part: old for old, part in new.items()})
    log.warning("%s: the results of %s would differ", failure, type(model).__name__)
    return 0


def _gives(call: Call, image: Tensor, wanted: Sequence[Tensor]) -> bool:
    """Whether the results for an image are these, up to `TOLERANCE`."""
    try:
        return all(map(_is_close, _results(call, image), wanted))
    except Exception as error:  # of any kind: the model uses a result in another way than by a module
        log.debug("after an exchange of modules: %s", error)
        return False


def _results(call: Call, image: Tensor) -> list[Tensor]:
    """Return the logits of a segmentor, the feature maps of a backbone."""
    return [leaf for leaf in tree_leaves(call(image)) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _is_close(found: Tensor, before: Tensor) -> bool:
    return torch.allclose(found, before, rtol=0, atol=TOLERANCE * float(before.abs().max()))


def _example(
    model: nn.Module, producers: Kinds, consumers: Kinds, call: Call | None = None
) -> tuple[Tensor, list[Tensor], _Tracer] | None:
    """Return an image, the results of ``call`` or the model, and what was traced; None where it cannot be run."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or model.training:
        return None
    generator = torch.Generator().manual_seed(0)
    for channels, size in ((1, 64), (1, 256), (2, 64)):  # a pair of images has twice the channels
        image = torch.randn(1, channels * first.in_channels, size, size, generator=generator).to(first.weight)
        tracer = _Tracer(model, producers, consumers)
        try:
            with tracer:
                results = _results(call or model, image)
        except Exception as error:  # of any kind: sizes and channels that the model does not take
            log.debug("%s on %s: %s", type(model).__name__, tuple(image.shape), error)
            continue
        finally:
            tracer.remove()
        if results:
            tracer.uses.update(map(id, results))  # by the caller
            return image, results, tracer
    return None


def _replace(model: nn.Module, parts: dict[nn.Module, nn.Module]) -> None:
    for parent in [*model.modules()]:
        for name, child in parent.named_children():
            if child in parts:
                setattr(parent, name, parts[child])


class _Tracer(TorchFunctionMode):
    """While active, records the producers whose result one consumer uses, and nothing else does."""

    def __init__(self, model: nn.Module, producers: Kinds, consumers: Kinds) -> None:
        super().__init__()
        self.results: dict[int, tuple[nn.Module, Any]] = {}
        self.uses: Counter[int] = Counter()
        self.overwritten: dict[int, int] = {}  # uses of a result before it was changed in place
        self.calls: list[tuple[nn.Module | None, nn.Module, int]] = []
        self.hooks = []
        for module in model.modules():
            if type(module) in producers:
                self.hooks.append(module.register_forward_hook(self._produced))
            if isinstance(module, consumers) and getattr(module, "running_mean", self) is not None:
                self.hooks.append(module.register_forward_hook(self._consumed))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(found)):
            self.uses.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return found

    def _produced(self, module: nn.Module, args: Any, result: Any) -> None:
        self.results[id(result)] = (module, result)
        for leaf in tree_leaves(result):
            self.uses[id(leaf)] = 0

    def _consumed(self, module: nn.Module, args: Any, result: Tensor) -> None:
        key = id(args[0])
        producer, _ = self.results.get(key, (None, None))
        self.calls.append((producer, module, key))
        if result is args[0]:
            self.overwritten.setdefault(key, self.uses[key])

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def pairs(self) -> Pairs:
        """Return the pairs; a module that is called several times must always meet the same other one."""
        uses = {**self.uses, **self.overwritten}
        made = Counter(producer for producer, _ in self.results.values())
        met = Counter((producer, consumer) for producer, consumer, key in self.calls if producer and uses[key] == 1)
        consumed = Counter(consumer for _, consumer, _ in self.calls)
        return [pair for pair, count in met.items() if count == made[pair[0]] == consumed[pair[1]]]
