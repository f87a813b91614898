"""Parallel linear branches of a block, trained apart, that are one convolution for inference.

RepVGG: Making VGG-style ConvNets Great Again, Ding et al., 2021 (https://arxiv.org/abs/2101.03697).

`segplug_deploy.optimize_for_inference` and exporters replace every module that has a method ``fused`` by what this
method returns; the trained model keeps its branches.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import fuse_conv_bn_weights

OTHER_NORMS = (nn.GroupNorm, nn.LayerNorm, _InstanceNorm)
"""Norms that depend on the map, and so are no part of a convolution."""
Kernel = tuple[Tensor, Tensor]
"""Weight and bias of a convolution, in float64."""


class Reparameterizable(nn.Module):
    """A module that a simpler one can replace for inference, if its norms are batch norms."""

    def fused(self) -> nn.Module:
        """Return a new module with the results of this one in evaluation mode, up to rounding; or this module."""
        return self if any(isinstance(module, OTHER_NORMS) for module in self.modules()) else self.merged()

    @abstractmethod
    def merged(self) -> nn.Module:
        """Return the new module."""


def kernel_of(conv: nn.Conv2d, norm: nn.Module | None = None) -> Kernel:
    """Return the kernel of a convolution and the batch norm after it, if there is one."""
    weight = conv.weight.detach().double()
    bias = None if conv.bias is None else conv.bias.detach().double()
    if norm is None or isinstance(norm, nn.Identity):
        return weight, weight.new_zeros(len(weight)) if bias is None else bias
    return _fused(weight, bias, norm)


def identity_kernel(conv: nn.Conv2d, norm: nn.Module | None = None) -> Kernel:
    """Return the 1x1 kernel of the identity in the groups of ``conv``, and of the batch norm after it, if any."""
    weight = nn.init.dirac_(conv.weight.new_empty(*conv.weight.shape[:2], 1, 1, dtype=torch.float64), conv.groups)
    return (weight, weight.new_zeros(len(weight))) if norm is None else _fused(weight, None, norm)


def merged_conv(like: nn.Conv2d, kernels: Iterable[Kernel]) -> nn.Conv2d:
    """Return the convolution that sums the results of kernels.

    Args:
        like: A convolution of the largest kernel, whose stride, padding and groups the result has.
        kernels: Those of the branches, of odd sides and centred on the same pixel.
    """
    height, width = like.kernel_size
    conv = copy.deepcopy(like)
    weight = torch.zeros_like(like.weight, dtype=torch.float64)
    bias = weight.new_zeros(len(weight))
    for branch, shift in kernels:
        rows, columns = (height - branch.shape[2]) // 2, (width - branch.shape[3]) // 2
        weight, bias = weight + F.pad(branch, (columns, columns, rows, rows)), bias + shift
    conv.weight, conv.bias = nn.Parameter(weight.to(like.weight)), nn.Parameter(bias.to(like.weight))
    return conv


def _fused(weight: Tensor, bias: Tensor | None, norm: nn.Module) -> Kernel:
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, scale, shift = (getattr(norm, name).detach().double() for name in names)
    return fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)  # type: ignore[arg-type]
