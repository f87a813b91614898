"""BiSeNet: a shallow, wide spatial path and a deep context path, fused for real-time segmentation.

    backbone = BiSeNetV1(ResNet(18))
    fused, fine, coarse = backbone(torch.rand(2, 3, 512, 1024))  # strides 8, 8, 16

BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation, Yu et al., 2018
(https://arxiv.org/abs/1808.00897).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import AdaptiveAvgPool2d, ConvModule, LayerConfig, check_out_indices, resize

BN: LayerConfig = {"type": "BN"}
RELU: LayerConfig = {"type": "ReLU"}


class SpatialPath(nn.Module):
    """Four convolutions that keep a high resolution: (N, in_channels, H, W) -> (N, num_channels[3], ~H/8, ~W/8).

    Args:
        in_channels: Channels of the image.
        num_channels: Output channels of the four convolutions.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_channels: Sequence[int] = (64, 64, 64, 128),
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig = BN,
        act_cfg: LayerConfig = RELU,
    ) -> None:
        super().__init__()
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        first, second, third, fourth = num_channels
        self.layer1 = ConvModule(in_channels, first, 7, stride=2, padding=3, **layers)
        self.layer2 = ConvModule(first, second, 3, stride=2, padding=1, **layers)
        self.layer3 = ConvModule(second, third, 3, stride=2, padding=1, **layers)
        self.layer4 = ConvModule(third, fourth, 1, **layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(images))))


class AttentionRefinementModule(nn.Module):
    """A convolution with channel attention: (N, in_channels, h, w) -> (N, out_channel, h, w)."""

    def __init__(
        self,
        in_channels: int,
        out_channel: int,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig = BN,
        act_cfg: LayerConfig = RELU,
    ) -> None:
        super().__init__()
        # The 3x3 convolution in front is MMSegmentation's; the paper's module begins with the pooling.
        conv = partial(ConvModule, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.conv_layer = conv(in_channels, out_channel, 3, padding=1, act_cfg=act_cfg)
        self.atten_conv_layer = nn.Sequential(
            AdaptiveAvgPool2d(1), conv(out_channel, out_channel, 1, bias=False, act_cfg=None), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_layer(x)
        return x * self.atten_conv_layer(x)


class ContextPath(nn.Module):
    """Images to two context maps with context_channels[0] channels, at strides 8 and 16.

    Args:
        backbone: Images to four maps at strides 4, 8, 16 and 32.
        context_channels: Channels of the context maps, and of the backbone's last two maps.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
    """

    def __init__(
        self,
        backbone: Backbone,
        context_channels: Sequence[int] = (128, 256, 512),
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig = BN,
        act_cfg: LayerConfig = RELU,
    ) -> None:
        super().__init__()
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        channels, middle, deep = context_channels
        self.backbone = backbone
        self.arm16 = AttentionRefinementModule(middle, channels, **layers)
        self.arm32 = AttentionRefinementModule(deep, channels, **layers)
        self.conv_head32 = ConvModule(channels, channels, 3, padding=1, **layers)
        self.conv_head16 = ConvModule(channels, channels, 3, padding=1, **layers)
        self.gap_conv = nn.Sequential(AdaptiveAvgPool2d(1), ConvModule(deep, channels, 1, **layers))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        _, fine, middle, deep = self.backbone(images)
        # The tail of the context path: the global average, one pixel, is broadcast over the deepest map.
        context = self.arm32(deep) + self.gap_conv(deep)
        coarse = self.conv_head32(resize(context, middle.shape[2:], mode="nearest"))
        context = self.arm16(middle) + coarse
        return self.conv_head16(resize(context, fine.shape[2:], mode="nearest")), coarse


class FeatureFusionModule(nn.Module):
    """Two maps of one size, concatenated, with channel attention -> (N, out_channels, h, w)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig = BN,
        act_cfg: LayerConfig = RELU,
    ) -> None:
        super().__init__()
        conv = partial(ConvModule, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.conv1 = conv(in_channels, out_channels, 1)
        self.gap = AdaptiveAvgPool2d(1)
        # As in the reference, one convolution with a norm; the paper has two without.
        self.conv_atten = nn.Sequential(conv(out_channels, out_channels, 1, bias=False), nn.Sigmoid())

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        fused = self.conv1(torch.cat([spatial, context], dim=1))
        return fused + fused * self.conv_atten(self.gap(fused))


class BiSeNetV1(Backbone):
    """Images (N, in_channels, H, W) to the fused map and two context maps, at strides 8, 8 and 16.

    The context maps are for auxiliary heads.

    Args:
        backbone_cfg: The backbone of the context path, which returns four maps at strides 4, 8, 16 and 32.
        in_channels: Channels of the image.
        spatial_channels: Output channels of the four convolutions of the spatial path.
        context_channels: Channels of the context maps, then of the backbone's last two maps.
        out_indices: The maps to return: 0 fused, 1 context at stride 8, 2 context at stride 16.
        align_corners: MMSegmentation's, without effect: context maps are resized by nearest neighbour.
        out_channels: Channels of the fused map.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {
        "backbone_cfg": {"type": "segkernel.testing.toys:ToyBackbone"},
        "spatial_channels": (4, 4, 4, 8),
        "context_channels": (8, 16, 16),
        "out_channels": 16,
    }
    conformance_exceptions: ClassVar = {"in-channels": "in_channels is an argument of the inner backbone"}

    def __init__(
        self,
        backbone_cfg: Backbone,
        in_channels: PositiveInt = 3,
        spatial_channels: Sequence[PositiveInt] = (64, 64, 64, 128),
        context_channels: Sequence[PositiveInt] = (128, 256, 512),
        out_indices: Sequence[int] = (0, 1, 2),
        align_corners: bool = False,
        out_channels: PositiveInt = 256,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN", "requires_grad": True},
        act_cfg: Mapping[str, Any] = {"type": "ReLU"},
    ) -> None:
        super().__init__()
        _check_channels(backbone_cfg, spatial_channels, context_channels)
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.align_corners, self.out_indices = align_corners, check_out_indices(out_indices, 3)
        self.context_path = ContextPath(backbone_cfg, context_channels, **layers)
        self.spatial_path = SpatialPath(in_channels, spatial_channels, **layers)
        self.ffm = FeatureFusionModule(spatial_channels[3] + context_channels[0], out_channels, **layers)
        channels, strides = (out_channels, context_channels[0], context_channels[0]), (8, 8, 16)
        self.channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        fine, coarse = self.context_path(images)
        outputs = (self.ffm(self.spatial_path(images), fine), fine, coarse)
        return tuple(outputs[i] for i in self.out_indices)


def _check_channels(backbone: Backbone, spatial: Sequence[int], context: Sequence[int]) -> None:
    for name, values, count in (("spatial_channels", spatial, 4), ("context_channels", context, 3)):
        if len(values) != count:
            raise ConfigError(Problem(f"{list(values)} must have {count} numbers", name))
    if len(backbone.channels) != 4 or tuple(context[1:]) != tuple(backbone.channels[2:]):
        message = f"{list(context)} must end with the channels of the last two of the backbone's four maps"
        raise ConfigError(
            Problem(message, "context_channels", hint=f"its maps have {list(backbone.channels)} channels")
        )
