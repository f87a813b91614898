"""STDC: short-term dense concatenation networks, and the context path of BiSeNet on top of them.

    backbone = STDCContextPathNet(stdc1(), ffm_cfg={"in_channels": 384, "out_channels": 256, "scale_factor": 4})
    detail, coarse, fine, fused = backbone(torch.rand(2, 3, 512, 1024))  # strides 8, 16, 8, 8

Rethinking BiSeNet For Real-time Semantic Segmentation, Fan et al., 2021 (https://arxiv.org/abs/2104.13188).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Required, TypedDict

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import AdaptiveAvgPool2d, ConvModule, LayerConfig, adaptive_avg_pool, resize
from segplug_backbones.bisenetv1 import BN, RELU, AttentionRefinementModule
from segplug_backbones.factory import factory
from segplug_backbones.pretrained import Pretrained

Fusion = Literal["add", "cat"]
ARCHITECTURES: dict[str, tuple[tuple[int, ...], ...]] = {
    "STDCNet1": ((2, 1), (2, 1), (2, 1)),
    "STDCNet2": ((2, 1, 1, 1), (2, 1, 1, 1, 1), (2, 1, 1)),
}
"""Stride of each module of the last three stages, table 2 of the paper."""


class STDCModule(nn.Module):
    """Convolutions in a row, with half as many channels each, whose outputs are all concatenated.

    (N, in_channels, h, w) -> (N, out_channels, ~h/stride, ~w/stride). Figure 3 of the paper.

    Args:
        in_channels: Input channels.
        out_channels: Output channels: a half from the first convolution, a quarter from the second, ...
        stride: 1 or 2.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
        num_convs: Number of convolutions.
        fusion_type: ``cat``, the paper's and that of all published weights, returns the concatenated outputs; ``add``,
            MMSegmentation's default, adds the input to them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        norm_cfg: LayerConfig | None,
        act_cfg: LayerConfig | None,
        num_convs: int = 4,
        fusion_type: Fusion = "add",
    ) -> None:
        super().__init__()
        layers: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
        half = out_channels // 2
        self.fusion_type = fusion_type
        self.downsample: nn.Module | None = None
        self.skip: nn.Module = nn.Identity()
        conv1: nn.Module = ConvModule(in_channels, half, 1, **layers)
        if stride == 2:
            self.downsample = ConvModule(
                half, half, 3, stride=2, padding=1, groups=half, norm_cfg=norm_cfg, act_cfg=None
            )
            self.skip = nn.AvgPool2d(3, stride=2, padding=1)
        if self.downsample is not None and fusion_type == "add":
            # As in the reference, the convolution is in ``layers`` as well, and has two keys in state dicts.
            conv1 = nn.Sequential(conv1, self.downsample)
            self.skip = nn.Sequential(
                ConvModule(
                    in_channels,
                    in_channels,
                    3,
                    stride=2,
                    padding=1,
                    groups=in_channels,
                    norm_cfg=norm_cfg,
                    act_cfg=None,
                ),
                ConvModule(in_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None),
            )
        self.layers = nn.ModuleList([conv1])
        # Block i has N / 2^i of the N channels, the last as many as the one before it, so that they add up to N.
        widths = [out_channels // 2**i for i in range(1, num_convs)]
        for inputs, width in pairwise([*widths, widths[-1]]):
            self.layers.append(ConvModule(inputs, width, 3, padding=1, **layers))

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_add(x) if self.fusion_type == "add" else self._forward_cat(x)

    def _forward_add(self, x: Tensor) -> Tensor:
        out, outputs = x, []
        for layer in self.layers:
            out = layer(out)
            outputs.append(out)
        return torch.cat(outputs, dim=1) + self.skip(x)

    def _forward_cat(self, x: Tensor) -> Tensor:
        first = self.layers[0](x)
        # The first output is pooled to the size of the others; the second convolution continues from a learnt
        # downsampling instead (figure 3c).
        outputs = [self.skip(first)]
        out = first if self.downsample is None else self.downsample(first)
        for layer in self.layers[1:]:
            out = layer(out)
            outputs.append(out)
        return torch.cat(outputs, dim=1)


class STDCNet(Pretrained, Backbone):
    """Images (N, in_channels, H, W) to the feature maps of the last three stages, at strides 8, 16 and 32.

    Args:
        stdc_type: ``STDCNet1``, or the deeper ``STDCNet2``.
        in_channels: Channels of the image.
        channels: Channels of the five stages, the first two of which are single convolutions.
        bottleneck_type: Fusion of the modules, see `STDCModule`.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
        num_convs: Convolutions of a module, at least two.
        with_final_conv: Whether the last map goes through a 1x1 convolution with at least 1024 output channels.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = (
        {"stdc_type": "STDCNet1", "in_channels": 3, "channels": [4, 4, 16, 32, 32], "bottleneck_type": "cat",
         "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "ReLU"}},
        {"stdc_type": "STDCNet1", "in_channels": 3, "channels": [4, 4, 16, 32, 32], "bottleneck_type": "add",
         "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "ReLU"}},
    )  # fmt: skip

    def __init__(
        self,
        stdc_type: Literal["STDCNet1", "STDCNet2"],
        in_channels: PositiveInt,
        channels: Sequence[PositiveInt],
        bottleneck_type: Fusion,
        norm_cfg: LayerConfig | None,
        act_cfg: LayerConfig | None,
        num_convs: PositiveInt = 4,
        with_final_conv: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        _check_stages(stdc_type, channels, bottleneck_type, num_convs)
        layers: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
        options: dict[str, Any] = {**layers, "num_convs": num_convs, "fusion_type": bottleneck_type}
        self.pretrained = pretrained
        self.stages = nn.ModuleList([
            ConvModule(in_channels, channels[0], 3, stride=2, padding=1, **layers),
            ConvModule(channels[0], channels[1], 3, stride=2, padding=1, **layers),
        ])  # fmt: skip
        for (inputs, width), strides in zip(pairwise(channels[1:]), ARCHITECTURES[stdc_type]):
            first = STDCModule(inputs, width, strides[0], **options)
            others = (STDCModule(width, width, stride, **options) for stride in strides[1:])
            self.stages.append(nn.Sequential(first, *others))
        last = max(1024, channels[-1]) if with_final_conv else channels[-1]
        self.final_conv = ConvModule(channels[-1], last, 1, **layers) if with_final_conv else None
        self.channels, self.strides = (*channels[2:-1], last), (8, 16, 32)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return three maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = images, []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        if self.final_conv is not None:
            outputs[-1] = self.final_conv(x)
        return tuple(outputs[2:])


@factory
def stdc1(in_channels: int = 3, pretrained: str | None = None) -> STDCNet:
    """STDC1."""
    return _variant("STDCNet1", in_channels, pretrained)


@factory
def stdc2(in_channels: int = 3, pretrained: str | None = None) -> STDCNet:
    """STDC2."""
    return _variant("STDCNet2", in_channels, pretrained)


def _variant(stdc_type: Literal["STDCNet1", "STDCNet2"], in_channels: int, pretrained: str | None) -> STDCNet:
    return STDCNet(
        stdc_type,
        in_channels=in_channels,
        channels=(32, 64, 256, 512, 1024),
        bottleneck_type="cat",
        norm_cfg=BN,
        act_cfg=RELU,
        pretrained=pretrained,
    )


class FusionArguments(TypedDict, total=False):
    """Arguments of `FeatureFusionModule`."""

    in_channels: Required[PositiveInt]
    out_channels: Required[PositiveInt]
    scale_factor: int
    norm_cfg: LayerConfig
    act_cfg: LayerConfig


class FeatureFusionModule(nn.Module):
    """Two maps of one size, concatenated, with channel attention -> (N, out_channels, h, w).

    Args:
        in_channels: Channels of both maps together.
        out_channels: Output channels.
        scale_factor: Reduction of the hidden channels of the attention.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale_factor: int = 4,
        norm_cfg: LayerConfig = BN,
        act_cfg: LayerConfig = RELU,
    ) -> None:
        super().__init__()
        hidden = out_channels // scale_factor
        self.conv0 = ConvModule(in_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.attention = nn.Sequential(
            AdaptiveAvgPool2d(1),
            ConvModule(out_channels, hidden, 1, bias=False, act_cfg=act_cfg),
            ConvModule(hidden, out_channels, 1, bias=False, act_cfg=None),
            nn.Sigmoid(),
        )

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        fused = self.conv0(torch.cat([spatial, context], dim=1))
        return fused + fused * self.attention(fused)


class STDCContextPathNet(Backbone):
    """Images (N, C, H, W) to detail, coarse context, fine context and fused map, at strides 8, 16, 8 and 8.

    The fused map is for the decode head, the others are for auxiliary heads, the detail map for the one that learns
    boundaries.

    Args:
        backbone_cfg: Images to maps at strides 8, 16 and 32: an `STDCNet`.
        last_in_channels: Channels of the backbone's last two maps, the coarsest first.
        out_channels: Channels of the context maps.
        ffm_cfg: Arguments of the `FeatureFusionModule` of the detail and the fine context map.
        upsample_mode: Interpolation of the upsampled maps.
        align_corners: As in `segkernel.nn.resize`.
        norm_cfg: Type of the norms and its arguments.

    Raises:
        ConfigError: When an argument does not fit the others.
    """

    conformance: ClassVar = {
        "backbone_cfg": {
            "type": "STDCNet", "stdc_type": "STDCNet1", "in_channels": 3, "channels": [4, 4, 16, 32, 64],
            "bottleneck_type": "cat", "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "ReLU"},
        },
        "last_in_channels": [64, 32],
        "out_channels": 8,
        "ffm_cfg": {"in_channels": 24, "out_channels": 16},
    }  # fmt: skip
    conformance_exceptions: ClassVar = {"order": "the maps are those of MMSegmentation, and heads name them by number"}

    def __init__(
        self,
        backbone_cfg: Backbone,
        last_in_channels: Sequence[PositiveInt] = (1024, 512),
        out_channels: PositiveInt = 128,
        ffm_cfg: FusionArguments = {"in_channels": 512, "out_channels": 256, "scale_factor": 4},  # noqa: B006  never changed
        upsample_mode: Literal["nearest", "bilinear", "bicubic"] = "nearest",
        align_corners: bool | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
    ) -> None:
        super().__init__()
        _check_maps(backbone_cfg, last_in_channels, ffm_cfg["in_channels"], out_channels)
        self.backbone = backbone_cfg
        self.arms = nn.ModuleList(
            AttentionRefinementModule(width, out_channels, norm_cfg=norm_cfg) for width in last_in_channels
        )
        self.convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg) for _ in last_in_channels
        )
        self.conv_avg = ConvModule(last_in_channels[0], out_channels, 1, norm_cfg=norm_cfg)
        self.ffm = FeatureFusionModule(**{"norm_cfg": norm_cfg, **ffm_cfg})  # type: ignore[arg-type]
        self.upsample_mode, self.align_corners = upsample_mode, align_corners
        self.channels = (backbone_cfg.channels[0], out_channels, out_channels, ffm_cfg["out_channels"])
        fine, middle, _ = backbone_cfg.strides
        self.strides = (fine, middle, fine, fine)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return four maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        detail, middle, deep = self.backbone(images)
        context = self._upsample(self.conv_avg(adaptive_avg_pool(deep, 1)), deep)
        coarse = self.convs[0](self._upsample(self.arms[0](deep) + context, middle))
        fine = self.convs[1](self._upsample(self.arms[1](middle) + coarse, detail))
        return detail, coarse, fine, self.ffm(detail, fine)

    def _upsample(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], mode=self.upsample_mode, align_corners=self.align_corners)


def _check_stages(stdc_type: str, channels: Sequence[int], bottleneck_type: str, num_convs: int) -> None:
    if stdc_type not in ARCHITECTURES:
        raise ConfigError(Problem(f"{stdc_type!r} is not {' or '.join(ARCHITECTURES)}", "stdc_type"))
    if bottleneck_type not in get_args(Fusion):
        raise ConfigError(Problem(f"{bottleneck_type!r} is not {' or '.join(get_args(Fusion))}", "bottleneck_type"))
    if len(channels) != 5:
        raise ConfigError(Problem(f"{list(channels)} must have 5 numbers, one for each stage", "channels"))
    if num_convs < 2:
        raise ConfigError(Problem(f"{num_convs} convolutions; at least 2 are needed", "num_convs"))


def _check_maps(backbone: Backbone, last: Sequence[int], fused: int, out_channels: int) -> None:
    if len(backbone.channels) != 3 or tuple(last) != tuple(reversed(backbone.channels[1:])):
        message = f"{list(last)} must be the channels of the last two of the backbone's three maps, the coarsest first"
        raise ConfigError(
            Problem(message, "last_in_channels", hint=f"its maps have {list(backbone.channels)} channels")
        )
    joined = backbone.channels[0] + out_channels
    if fused != joined:
        raise ConfigError(Problem(f"{fused}, but the two maps have {joined} channels together", "ffm_cfg.in_channels"))
