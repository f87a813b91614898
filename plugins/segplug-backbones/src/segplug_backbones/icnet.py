"""ICNet: a cascade of three image sizes, of which only the smallest goes through all of a deep network.

    backbone = ICNet(ResNetV1c(50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)))
    fine, middle, coarse = backbone(torch.rand(2, 3, 512, 1024))  # strides 8, 16, 32

Reference: ICNet for Real-time Semantic Segmentation on High-resolution Images, Zhao et al., 2018
(https://arxiv.org/abs/1704.08545).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import ConvModule, LayerConfig, PyramidPooling, resize
from segplug_backbones.resnet import ResNet


class WideMaxPool2d(nn.Module):
    """``nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)``, exportable with dynamic sizes.

    (N, C, H, W) -> (N, C, H // 2 + 1, W // 2 + 1).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, stride=2, padding=1)


class ICNet(Backbone):
    """Images (N, in_channels, H, W) to three maps of ``out_channels``, at strides 8, 16 and 32 with a ResNet of 8.

    Args:
        backbone_cfg: A ResNet with a deep stem. Its first two stages see the image at half its size, the last two the
            result of those, again at half its size.
        in_channels: Channels of the image.
        layer_channels: Channels of the ResNet's second and fourth stage.
        light_branch_middle_channels: Hidden channels of the branch that sees the image at its full size.
        psp_out_channels: Output channels of each scale of the pyramid pooling, and of the coarse map.
        out_channels: Channels of the three maps.
        pool_scales: Side of each grid of the pyramid pooling in bins.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
        align_corners: As in `segkernel.nn.resize`.

    Raises:
        ConfigError: When an argument does not fit the others.
    """

    conformance: ClassVar = {
        "backbone_cfg": {
            "type": "ResNetV1c", "depth": 18, "base_channels": 4, "stem_channels": 4,
            "strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4),
        },
        "layer_channels": (8, 32),
        "light_branch_middle_channels": 4,
        "psp_out_channels": 8,
        "out_channels": (4, 8, 8),
    }  # fmt: skip
    conformance_exceptions: ClassVar = {"in-channels": "in_channels is an argument of the inner backbone"}

    def __init__(
        self,
        backbone_cfg: ResNet,
        in_channels: PositiveInt = 3,
        layer_channels: Sequence[PositiveInt] = (512, 2048),
        light_branch_middle_channels: PositiveInt = 32,
        psp_out_channels: PositiveInt = 512,
        out_channels: Sequence[PositiveInt] = (64, 256, 256),
        pool_scales: Sequence[PositiveInt] = (1, 2, 3, 6),
        conv_cfg: LayerConfig | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN", "requires_grad": True},
        act_cfg: Mapping[str, Any] = {"type": "ReLU"},
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        _check_backbone(backbone_cfg, layer_channels)
        if len(out_channels) != 3:
            raise ConfigError(Problem(f"{list(out_channels)} must have 3 numbers, one for each map", "out_channels"))
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        light, (middle, deep) = light_branch_middle_channels, layer_channels
        self.align_corners = align_corners
        self.backbone = backbone_cfg
        # MMSegmentation swaps in a pooling with ceil_mode, which decides the sizes of all maps after it.
        self.backbone.maxpool = WideMaxPool2d()
        self.psp_modules = PyramidPooling(pool_scales, deep, psp_out_channels, **layers, align_corners=align_corners)
        self.psp_bottleneck = ConvModule(
            deep + len(pool_scales) * psp_out_channels, psp_out_channels, 3, padding=1, **layers
        )
        self.conv_sub1 = nn.Sequential(
            ConvModule(in_channels, light, 3, stride=2, padding=1, **layers),
            ConvModule(light, light, 3, stride=2, padding=1, **layers),
            ConvModule(light, out_channels[0], 3, stride=2, padding=1, **layers),
        )
        self.conv_sub2 = ConvModule(middle, out_channels[1], 1, **layers)
        self.conv_sub4 = ConvModule(psp_out_channels, out_channels[2], 1, **layers)
        self.channels = tuple(out_channels)
        self.strides = (8, 2 * backbone_cfg.strides[1], 4 * backbone_cfg.strides[3])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return three maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        stage1, stage2, stage3, stage4 = self.backbone.stages
        x = self.backbone.maxpool(self.backbone.stem(self._halve(images)))
        middle = stage2(stage1(x))
        deep = stage4(stage3(self._halve(middle)))
        # The pooled maps come first, unlike in `PSPHead`.
        coarse = self.psp_bottleneck(torch.cat([*self.psp_modules(deep), deep], dim=1))
        return self.conv_sub1(images), self.conv_sub2(middle), self.conv_sub4(coarse)

    def _halve(self, x: Tensor) -> Tensor:
        if self.align_corners:
            return resize(x, (x.shape[2] // 2, x.shape[3] // 2), align_corners=True)
        return F.avg_pool2d(x, 2)  # equal to bilinear interpolation to half the size, and faster


def _check_backbone(backbone: ResNet, layer_channels: Sequence[int]) -> None:
    if not backbone.deep_stem:
        hint = "take ResNetV1c or ResNetV1d"
        raise ConfigError(Problem("the ResNet must have a deep stem", "backbone_cfg", hint=hint))
    if len(backbone.channels) != 4 or tuple(layer_channels) != (backbone.channels[1], backbone.channels[3]):
        message = f"{list(layer_channels)} must be the channels of the second and fourth of the ResNet's four stages"
        hint = f"its maps have {list(backbone.channels)} channels"
        raise ConfigError(Problem(message, "layer_channels", hint=hint))
