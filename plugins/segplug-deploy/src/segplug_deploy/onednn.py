"""Convolutions and linear layers that oneDNN computes, together with the activation that follows.

    faster = OneDNNConv2d.of(conv, nn.ReLU())

torch itself hands linear layers, and 1x1 convolutions of a single image on one thread, to its BLAS. That is MKL in most
builds, which uses AVX-512 on processors of Intel only, and it adds the bias and applies the activation in passes of
their own. oneDNN is more than twice as fast there, and never slower.
"""

from __future__ import annotations

import copy
import functools
import platform
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS = {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "swish", nn.Hardswish: "hardswish"}
"""Activations that oneDNN applies to a result, by its names."""


@functools.cache
def has_onednn() -> bool:
    """Whether torch has the operators, on a processor where they are faster."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    image, weight = torch.ones(1, 1, 1, 1), torch.ones(1, 1)
    try:
        with torch.no_grad():
            _convolve(image, image, None, nn.ReLU())
            _multiply(weight, weight, None, nn.GELU())
    except (AttributeError, RuntimeError, TypeError):  # another version of torch: they are not public
        return False
    return True


class _WithActivation(nn.Module):
    activation: nn.Module

    @classmethod
    def of(cls, layer: Any, activation: nn.Module | None = None) -> Any:
        """Return one with the parameters of a layer of torch, and an activation."""
        faster = copy.copy(layer)
        faster.__class__ = cls
        faster._modules = {"activation": activation or nn.Identity()}
        return faster


class OneDNNConv2d(_WithActivation, nn.Conv2d):
    """A convolution and an activation: (N, C, H, W) -> (N, out_channels, H', W')."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or not runs_in_onednn(input, self.weight):
            return self.activation(super().forward(input))
        padding: Any = self.padding
        return _convolve(
            input, self.weight, self.bias, self.activation, padding, self.stride, self.dilation, self.groups
        )


class OneDNNLinear(_WithActivation, nn.Linear):
    """A linear layer and an activation: (..., in_features) -> (..., out_features)."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() < 2 or not runs_in_onednn(input, self.weight):
            return self.activation(super().forward(input))
        return _multiply(input, self.weight, self.bias, self.activation)


def runs_in_onednn(input: Tensor, weight: Tensor) -> bool:
    """Whether its operators take these: in float32, without gradients, autocast or tracing."""
    needs_grad = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
    return (
        input.dtype is weight.dtype is torch.float32
        and input.device.type == weight.device.type == "cpu"
        and input.numel() > 0
        and not (needs_grad or torch.is_autocast_enabled("cpu"))
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
    )


def _convolve(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: nn.Module,
    padding: tuple[int, ...] = (0, 0),
    stride: tuple[int, ...] = (1, 1),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:
    operator = torch.ops.mkldnn._convolution_pointwise
    return operator(image, weight, bias, padding, stride, dilation, groups, *_epilogue(activation))


def _multiply(rows: Tensor, weight: Tensor, bias: Tensor | None, activation: nn.Module) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, *_epilogue(activation))


def _epilogue(activation: nn.Module) -> tuple[str, list[float], str]:
    """Return what oneDNN does with the result: name, numbers and variant."""
    return ACTIVATIONS.get(type(activation), "none"), [], getattr(activation, "approximate", "")
