"""MobileNetV2: a light network of inverted residuals with linear bottlenecks.

    features = MobileNetV2()(torch.rand(2, 3, 512, 512))  # strides 4, 8, 16, 32

MobileNetV2: Inverted Residuals and Linear Bottlenecks, Sandler et al., 2018 (https://arxiv.org/abs/1801.04381).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from segkernel.annotations import Positive, PositiveInt
from segkernel.nn import (
    ConvModule,
    FreezableBackbone,
    check_frozen_stages,
    check_out_indices,
    check_per_stage,
    checkpoint_block,
)
from segplug_backbones.dilation import dilate
from segplug_backbones.inverted_residual import InvertedResidual
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.squeeze import make_divisible

STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Table 2 of the paper: expansion, channels and number of blocks of each stage."""


class MobileNetV2(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    Args:
        widen_factor: Multiplier of all channels.
        strides: Stride of each of the seven stages; the stem adds a stride of 2.
        dilations: Dilation of the first block of each stage.
        out_indices: The stages to return, counted from 0; 7 is a last 1x1 convolution of 1280 channels.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
        norm_eval: Keep batch norm in evaluation mode while training.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        in_channels: Channels of the image.
        dilate_all_blocks: Dilate all blocks of a stage, and the first as the stage before it, as the authors do.
        output_stride: Stride of the last stage, for the default ``strides`` and ``dilations``: all convolutions of
            stages that would exceed it are dilated, as segmentation_models_pytorch does.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    pyramid: ClassVar[Mapping[int, Mapping[str, Any]]] = {
        depth: {"out_indices": (0, 1, 2, 4, 6)[:depth]} for depth in (3, 4, 5)
    }
    conformance: ClassVar = (
        {"widen_factor": 0.25, "out_indices": (1, 2, 4, 6)},
        {"widen_factor": 0.1, "out_indices": (0, 7)},
        {"widen_factor": 0.1, "strides": (1, 2, 2, 1, 1, 1, 1), "dilations": (1, 1, 1, 2, 2, 4, 4)},
    )

    def __init__(
        self,
        widen_factor: Positive = 1.0,
        strides: Sequence[PositiveInt] = (1, 2, 2, 2, 1, 2, 1),
        dilations: Sequence[PositiveInt] = (1, 1, 1, 1, 1, 1, 1),
        out_indices: Sequence[int] = (1, 2, 4, 6),
        frozen_stages: int = -1,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "ReLU6"},
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
        in_channels: PositiveInt = 3,
        dilate_all_blocks: bool = False,
        output_stride: Literal[8, 16, 32] = 32,
    ) -> None:
        super().__init__()
        check_per_stage(len(STAGES), {"strides": strides, "dilations": dilations})
        self.out_indices = check_out_indices(out_indices, len(STAGES) + 1)
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, len(STAGES))
        self.norm_eval, self.with_cp, self.pretrained = norm_eval, with_cp, pretrained
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        widths = [make_divisible(channels * widen_factor, 8) for channels in (32, *(stage[1] for stage in STAGES))]
        self.conv1 = ConvModule(in_channels, widths[0], 3, stride=2, padding=1, **layers)
        for i, (expansion, _, blocks) in enumerate(STAGES):
            width, options = widths[i + 1], {**layers, "expand_ratio": expansion}
            # In MMSegmentation, only the first block of a stage is dilated.
            before, after = (dilations[max(i - 1, 0)], dilations[i]) if dilate_all_blocks else (dilations[i], 1)
            first = InvertedResidual(widths[i], width, stride=strides[i], dilation=before, **options)
            others = [InvertedResidual(width, width, stride=1, dilation=after, **options) for _ in range(blocks - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *others))
        self.conv2: ConvModule | None = None
        if len(STAGES) in self.out_indices:
            widths.append(make_divisible(1280 * max(widen_factor, 1.0), 8))
            self.conv2 = ConvModule(widths[-2], widths[-1], 1, **layers)
        self.channels = tuple(widths[i + 1] for i in self.out_indices)
        reductions = [2 * math.prod(strides[: i + 1]) for i in range(len(STAGES))]
        self.strides = tuple(min(reductions[min(i, len(STAGES) - 1)], output_stride) for i in self.out_indices)
        for stage, stride in zip(self._stages(), reductions, strict=True):
            if stride > output_stride:
                dilate(stage, stride // output_stride)
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = self.conv1(images), []
        for stage in self._stages():
            for block in stage:
                x = checkpoint_block(block, x, enabled=self.with_cp)
            outputs.append(x)
        if self.conv2 is not None:
            outputs.append(self.conv2(x))
        return tuple(outputs[i] for i in self.out_indices)

    def _stages(self) -> list[nn.Sequential]:
        return [getattr(self, f"layer{i + 1}") for i in range(len(STAGES))]

    def frozen_modules(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.conv1, *self._stages()[: self.frozen_stages]]
