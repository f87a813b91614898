"""A model that predicts the same faster: folded batch norms, memory layout, and class ids without large logits.

    faster = optimize_for_inference(model.eval())

`Predictor` and the commands that use it do this for every model that they load.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from dataclasses import asdict
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from segkernel.interfaces.model import PixelClasses
from segplug_deploy.labels import FastPixelClasses

log = logging.getLogger(__name__)

ROW_MAJOR = ("SwinTransformer",)
"""Backbones that are slower in the layout ``channels_last``, on a CPU."""
TOLERANCE = 1e-2
"""Largest difference that folding may make, relative to the largest logit."""


def optimize_for_inference(
    model: Any,
    device: str | torch.device = "cpu",
    *,
    fold: bool = True,
    channels_last: bool | None = None,
    labels: bool = True,
    compile: bool = False,
) -> Any:
    """Return a copy of a model that predicts faster; its parameters are those of the model, where they do not change.

    Args:
        model: A segmentor in evaluation mode; or one of an exported file, where only ``labels`` has an effect.
        device: Where it will run.
        fold: Fold batch norms into the convolutions before them; logits are equal up to rounding.
        channels_last: Convolve in this memory layout. None does on a CPU, except for the backbones `ROW_MAJOR`.
        labels: Compute the class ids without logits at the size of the image; they are the same.
        compile: Compile ``predict`` with `torch.compile`, when it is first called and for each size of images.
    """
    faster, is_deep = _copy(model)
    if fold and is_deep:
        fold_batch_norms(faster)
    if channels_last is None:
        backbones = {type(module).__name__ for module in faster.modules()} if is_deep else set()
        channels_last = torch.device(device).type == "cpu" and not backbones & {*ROW_MAJOR}
    if channels_last and is_deep:
        _to_channels_last(faster)
    if labels:
        kinds = faster.outputs.items()
        faster.outputs = {
            name: FastPixelClasses(**asdict(kind)) if type(kind) is PixelClasses else kind for name, kind in kinds
        }
    if compile:
        faster.predict = torch.compile(faster.predict)
    return faster


def _copy(model: Any) -> tuple[Any, bool]:
    """Return a copy with the same parameters, and whether its modules are copies, too; not those of exported files."""
    if isinstance(model, nn.Module) and any(isinstance(module, nn.Conv2d) for module in model.modules()):
        try:
            return copy.deepcopy(
                model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
            ), True
        except Exception as error:  # of any kind: an attribute that cannot be copied
            log.warning("%s is not made faster, as it cannot be copied: %s", type(model).__name__, error)
    return copy.copy(model), False


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> int:
    """Fold every batch norm of a model whose input is the result of a convolution that nothing else uses.

    They are found by running the model once on noise. Returns their number; none where it cannot be run, or where its
    result is another one afterwards.
    """
    run = _example(model)
    if run is None:
        return 0
    image, before, pairs = run
    parts: dict[nn.Module, nn.Module] = {norm: nn.Identity() for _, norm in pairs}
    parts |= {conv: fuse_conv_bn_eval(conv, norm) for conv, norm in pairs}
    undo = {new: old for old, new in parts.items()}
    _replace(model, parts)
    after = model(image)
    if torch.allclose(after, before, rtol=0, atol=TOLERANCE * float(before.abs().max())):
        return len(pairs)
    _replace(model, undo)
    log.warning("batch norms are not folded: the logits of %s would differ", type(model).__name__)
    return 0


def _example(model: nn.Module) -> tuple[Tensor, Tensor, list[tuple[nn.Conv2d, _BatchNorm]]] | None:
    """Return an image, its logits, and the convolutions and batch norms to fold; None where the model cannot be run."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or model.training:
        return None
    generator = torch.Generator().manual_seed(0)
    for channels, size in ((1, 64), (1, 256), (2, 64)):  # a pair of images has twice the channels
        image = torch.randn(1, channels * first.in_channels, size, size, generator=generator).to(first.weight)
        tracer = _Tracer(model)
        try:
            with tracer:
                logits = model(image)
        except Exception as error:  # of any kind: sizes and channels that the model does not take
            log.debug("%s on %s: %s", type(model).__name__, tuple(image.shape), error)
            continue
        finally:
            tracer.remove()
        if isinstance(logits, Tensor):
            return image, logits, tracer.pairs()
    return None


def _replace(model: nn.Module, parts: dict[nn.Module, nn.Module]) -> None:
    for parent in [*model.modules()]:
        for name, child in parent.named_children():
            if child in parts:
                setattr(parent, name, parts[child])


class _Tracer(TorchFunctionMode):
    """While active, records the convolutions whose result one batch norm uses, and nothing else does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.results: dict[int, tuple[nn.Conv2d, Tensor]] = {}
        self.uses: Counter[int] = Counter()
        self.calls: list[tuple[nn.Conv2d | None, _BatchNorm, int]] = []
        self.hooks = []
        for module in model.modules():
            if type(module) is nn.Conv2d:
                self.hooks.append(module.register_forward_hook(self._convolved))
            elif isinstance(module, _BatchNorm) and module.running_mean is not None:
                self.hooks.append(module.register_forward_pre_hook(self._normalised))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(found)):
            self.uses.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return found

    def _convolved(self, module: nn.Module, args: Any, result: Tensor) -> None:
        self.results[id(result)] = (module, result)  # type: ignore[assignment]
        self.uses[id(result)] = 0

    def _normalised(self, module: nn.Module, args: Any) -> None:
        conv, _ = self.results.get(id(args[0]), (None, None))
        self.calls.append((conv, module, id(args[0])))  # type: ignore[arg-type]

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def pairs(self) -> list[tuple[nn.Conv2d, _BatchNorm]]:
        """Return the pairs; a module that is called several times must always meet the same other one."""
        made = Counter(conv for conv, _ in self.results.values())
        met = Counter((conv, norm) for conv, norm, result in self.calls if conv and self.uses[result] == 1)
        normalised = Counter(norm for _, norm, _ in self.calls)
        return [pair for pair, count in met.items() if count == made[pair[0]] == normalised[pair[1]]]


def _to_channels_last(model: nn.Module) -> None:
    """Store the weights of convolutions in this layout, which their results take over."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and "weight" in module._parameters:
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=False)
