"""ShuffleNetV2: blocks that work on half of the channels, then shuffle the channels.

    features = ShuffleNetV2(out_indices=(0, 1, 2, 3))(torch.rand(2, 3, 512, 512))  # strides 8, 16, 32, 32

ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, Ma et al., 2018
(https://arxiv.org/abs/1807.11164). Arguments and state-dict keys are mmpretrain's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import Positive, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    ConvModule,
    FreezableBackbone,
    check_frozen_stages,
    check_out_indices,
    checkpoint_block,
    normal_init,
)

BLOCKS = (4, 8, 4)
"""Blocks of each stage."""
CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
"""Table 5 of the paper: channels of the three stages and of the last convolution, by ``widen_factor``."""


class ShuffleBlock(nn.Module):
    """(N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride).

    With stride 1 the first branch is the identity on half of the channels; with stride 2 both branches see all of them.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, **layers: Any) -> None:
        super().__init__()
        half = out_channels // 2
        # The depthwise convolutions have no activation after them, as Xception's (figure 3 of the paper).
        depthwise: dict[str, Any] = {**layers, "act_cfg": None, "stride": stride, "padding": 1}
        self.branch1 = None
        if stride > 1:
            self.branch1 = nn.Sequential(
                ConvModule(in_channels, in_channels, 3, groups=in_channels, **depthwise),
                ConvModule(in_channels, half, 1, **layers),
            )
        self.branch2 = nn.Sequential(
            ConvModule(in_channels if stride > 1 else half, half, 1, **layers),
            ConvModule(half, half, 3, groups=half, **depthwise),
            ConvModule(half, half, 1, **layers),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1) if self.branch1 is None else (self.branch1(x), x)
        return _channel_shuffle(torch.cat([first, self.branch2(second)], dim=1))


def _channel_shuffle(x: Tensor) -> Tensor:
    """Return the channels of both halves interleaved."""
    if torch.__version__ < "2.7":  # torch's own had no gradient on a processor
        last = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2).contiguous(memory_format=last)
    return F.channel_shuffle(x, 2)  # keeps the memory format


class ShuffleNetV2(FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    Args:
        widen_factor: 0.5, 1.0, 1.5 or 2.0.
        out_indices: 0, 1 and 2 are the stages, at strides 8, 16 and 32; 3 is the convolution after them.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
        norm_eval: Keep batch norm in evaluation mode while training.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        in_channels: Channels of the image.

    Raises:
        ConfigError: When an argument is out of range.
    """

    pyramid: ClassVar[Mapping[int, Mapping[str, Any]]] = {depth: {"out_indices": (0, 1, 2)} for depth in (3, 4, 5)}
    conformance: ClassVar = {"widen_factor": 0.5, "out_indices": (0, 1, 2, 3)}

    def __init__(
        self,
        widen_factor: Positive = 1.0,
        out_indices: Sequence[int] = (3,),
        frozen_stages: int = -1,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "ReLU"},
        norm_eval: bool = False,
        with_cp: bool = False,
        in_channels: PositiveInt = 3,
    ) -> None:
        super().__init__()
        if widen_factor not in CHANNELS:
            message = f"{widen_factor} is not one of {', '.join(map(str, CHANNELS))}"
            raise ConfigError(Problem(message, "widen_factor"))
        self.out_indices = check_out_indices(out_indices, len(BLOCKS) + 1)
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, len(BLOCKS))
        self.norm_eval, self.with_cp = norm_eval, with_cp
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.conv1 = ConvModule(in_channels, 24, 3, stride=2, padding=1, **layers)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = CHANNELS[widen_factor]
        self.layers = nn.ModuleList()
        for inputs, outputs, count in zip((24, *channels), channels, BLOCKS):
            first = ShuffleBlock(inputs, outputs, 2, **layers)
            self.layers.append(
                nn.Sequential(first, *(ShuffleBlock(outputs, outputs, 1, **layers) for _ in range(count - 1)))
            )
        self.layers.append(ConvModule(channels[2], channels[3], 1, **layers))
        self.channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple((8, 16, 32, 32)[i] for i in self.out_indices)
        self._init_weights()
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = self.maxpool(self.conv1(images)), []
        *stages, last = self.layers
        for stage in stages:
            for block in stage.children():
                x = checkpoint_block(block, x, enabled=self.with_cp)
            outputs.append(x)
        outputs.append(last(x))
        return tuple(outputs[i] for i in self.out_indices)

    def frozen_modules(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.conv1, *self.layers[: self.frozen_stages]]

    def _init_weights(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                # With the kernel; mmpretrain counts the input channels of a group alone. Norms follow all of them.
                fan_in = math.prod(module.weight.shape[1:])
                normal_init(module, std=0.01 if name.startswith("conv1") else 1 / fan_in)
