"""The convolution of a concatenation as a sum of convolutions, so that the concatenation takes no memory.

faster = SplitConv(OneDNNConv2d.of(conv, nn.ReLU()), [256, 64])
faster([a, b])      # that of torch.cat([a, b], 1)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from segplug_deploy.onednn import OneDNNConv2d
from segplug_deploy.winograd import WinogradConv2d, pays


class SplitConv(nn.Module):
    """A convolution and an activation of maps, one after the other: (N, C_i, H, W) -> (N, out_channels, H', W').

    Args:
        conv: The convolution of all maps, without groups.
        channels: C_i of each map.
    """

    def __init__(self, conv: OneDNNConv2d, channels: Sequence[int]) -> None:
        super().__init__()
        weights = conv.weight.detach().split(list(channels), 1)
        biases = [conv.bias, *[None] * len(weights)]
        self.convs = nn.ModuleList(_with_weight(conv, weight, bias) for weight, bias in zip(weights, biases))
        self.activation = conv.activation

    def forward(self, maps: Iterable[Tensor]) -> Tensor:
        first, *others = self.convs
        maps = iter(maps)
        result = first(next(maps))
        for conv in others:
            result += conv(next(maps))  # without a name, which would keep it while the next one is made
        return result.relu_() if isinstance(self.activation, nn.ReLU) else self.activation(result)


def _with_weight(conv: OneDNNConv2d, weight: Tensor, bias: Tensor | None) -> OneDNNConv2d:
    """Return the convolution with some of its weights, without its activation."""
    part: Any = copy.copy(conv)
    part._parameters = {"weight": nn.Parameter(weight.contiguous(), requires_grad=False), "bias": bias}
    part.in_channels = weight.shape[1]
    return (WinogradConv2d if isinstance(conv, WinogradConv2d) and pays(part) else OneDNNConv2d).of(part)
