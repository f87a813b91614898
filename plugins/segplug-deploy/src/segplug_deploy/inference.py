"""A model that predicts the same faster: folded batch norms, oneDNN, memory layout, class ids without large logits.

    faster = optimize_for_inference(model.eval())

`Predictor` and the commands that use it do this for every model that they load.
"""

from __future__ import annotations

import copy
import logging
from itertools import chain
from typing import Any

import torch
from torch import nn

from segkernel.interfaces.model import Segmentor
from segplug_deploy.allocator import give_up_holes, keep_freed_memory
from segplug_deploy.fusion import (
    chain_convolutions,
    drop_unread_maps,
    fold_batch_norms,
    fuse_modules,
    split_concatenations,
    use_onednn,
)
from segplug_deploy.labels import fast_outputs
from segplug_deploy.onednn import has_onednn

log = logging.getLogger(__name__)


def optimize_for_inference(
    model: Any,
    device: str | torch.device = "cpu",
    *,
    fold: bool = True,
    onednn: bool | None = None,
    winograd: bool = True,
    channels_last: bool | None = None,
    labels: bool = True,
    memory: bool = True,
    compile: bool = False,
) -> Any:
    """Return a copy of a model that predicts faster; its parameters are those of the model, where they do not change.

    Args:
        model: A segmentor, or any other module such as a backbone, in evaluation mode; or a segmentor of an exported
            file, where only ``labels`` has an effect.
        device: Where it will run.
        fold: Fold batch norms into the convolutions before them, branches into one convolution, and adapters into the
            weights (`segplug_deploy.fusion.fuse_modules`); logits are equal up to rounding.
        onednn: Let oneDNN compute convolutions, linear layers and the activations after them, in float32 on a CPU; the
            logits are equal up to rounding. None does on a CPU of the x86 family.
        winograd: With ``onednn``, compute 3x3 convolutions of many channels with fewer multiplications; their rounding
            errors are four to eight times as large, and their weights take up to five times the memory.
        channels_last: Convolve in this memory layout. None does on a CPU.
        labels: Compute the class ids of a segmentor without logits at the size of the image; they are the same.
        memory: Keep no feature maps that only auxiliary heads read, so that the losses cannot be computed. On a CPU,
            let the process keep 128 MiB of freed memory for the next image, as far as glibc is its C library, which
            saves some models a twentieth of the time.
        compile: Compile ``predict``, or a module without it, with `torch.compile`, when it is first called and for each
            size of images.
    """
    faster, is_deep = _copy(model)
    if fold and is_deep:
        fuse_modules(faster)
        fold_batch_norms(faster)
    on_cpu = torch.device(device).type == "cpu"
    if is_deep and (on_cpu and has_onednn() if onednn is None else onednn):
        use_onednn(faster, winograd)
        split_concatenations(faster)
        chain_convolutions(faster)
    if is_deep and memory and isinstance(faster, Segmentor):
        drop_unread_maps(faster)
    if is_deep and (on_cpu if channels_last is None else channels_last):
        _to_channels_last(faster)
    if labels and hasattr(faster, "outputs"):
        faster.outputs = fast_outputs(faster.outputs)
    if memory and on_cpu:
        keep_freed_memory()
        give_up_holes()
        if is_deep and not compile:
            next(faster.children(), faster).register_forward_pre_hook(_SecondPass())
    if compile and hasattr(faster, "predict"):
        faster.predict = torch.compile(faster.predict)
    elif compile:
        faster.compile()
    return faster


class _SecondPass:
    """A hook that gives up holes again before the second pass: the first one leaves what oneDNN caches between maps."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: nn.Module, arguments: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            give_up_holes()


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


def _to_channels_last(model: nn.Module) -> None:
    """Store the weights of convolutions in this layout, which their results take over."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and "weight" in module._parameters:
            # `contiguous` would leave those of 1x1 convolutions with strides from which torch does not see the layout.
            weight = module.weight.detach().to(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=False)
