"""STDC: short-term dense concatenation, and the context path that makes a segmentation network of it.

    backbone = STDCContextPathNet(stdc1(), ffm_cfg={"in_channels": 384, "out_channels": 256, "scale_factor": 4})
    detail, coarse, fine, fused = backbone(torch.rand(2, 3, 512, 1024))  # strides 8, 16, 8, 8

Reference: Rethinking BiSeNet For Real-time Semantic Segmentation, Fan et al., 2021 (https://arxiv.org/abs/2104.13188).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Required, TypedDict

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import AdaptiveAvgPool2d, ConvModule, LayerConfig, adaptive_avg_pool, resize
from segplug_backbones.bisenetv1 import BN, RELU, AttentionRefinementModule

Fusion = Literal["add", "cat"]
ARCHITECTURES: dict[str, tuple[tuple[int, ...], ...]] = {
    "STDCNet1": ((2, 1), (2, 1), (2, 1)),
    "STDCNet2": ((2, 1, 1, 1), (2, 1, 1, 1, 1), (2, 1, 1)),
}
"""Strides of the modules in each of the three deep stages."""


class STDCModule(nn.Module):
    """A row of convolutions, each narrower than the last, whose results are all joined.

    (N, in_channels, h, w) -> (N, out_channels, ~h/stride, ~w/stride).

    Args:
        in_channels: Of the input.
        out_channels: Of the joined results: a half, a quarter, an eighth of them and so on from each convolution.
        stride: 1 or 2.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
        num_convs: Length of the row.
        fusion_type: ``cat`` returns the joined results, ``add`` adds the input to them.
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
        conv = partial(ConvModule, norm_cfg=norm_cfg, act_cfg=act_cfg)
        shrink = partial(conv, kernel_size=3, stride=2, padding=1, act_cfg=None)
        half = out_channels // 2
        self.adds, self.strided = fusion_type == "add", stride == 2
        first: nn.Module = conv(in_channels, half, 1)
        self.skip: nn.Module = nn.Identity()
        if self.strided:
            self.downsample = shrink(half, half, groups=half)
            self.skip = nn.AvgPool2d(3, stride=2, padding=1)
        if self.strided and self.adds:
            first = nn.Sequential(first, self.downsample)  # which so has two names in a state dict
            self.skip = nn.Sequential(
                shrink(in_channels, in_channels, groups=in_channels), conv(in_channels, out_channels, 1, act_cfg=None)
            )
        self.layers = nn.ModuleList([first])
        widths = [out_channels // 2**i for i in range(1, num_convs)]
        for inputs, width in pairwise([*widths, widths[-1]]):
            self.layers.append(conv(inputs, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self._added(x) if self.adds else self._joined(x)

    def _added(self, x: Tensor) -> Tensor:
        return torch.cat(self._row(x, self.layers), dim=1) + self.skip(x)

    def _joined(self, x: Tensor) -> Tensor:
        first = self.layers[0](x)
        x = self.downsample(first) if self.strided else first
        return torch.cat([self.skip(first), *self._row(x, self.layers[1:])], dim=1)

    @staticmethod
    def _row(x: Tensor, layers: nn.ModuleList) -> list[Tensor]:
        outputs = []
        for layer in layers:
            x = layer(x)
            outputs.append(x)
        return outputs


class STDCNet(Backbone):
    """Images (N, in_channels, H, W) to the maps of the three deep stages, at strides 8, 16 and 32.

    Args:
        stdc_type: ``STDCNet1``, or the deeper ``STDCNet2``.
        in_channels: Channels of the image.
        channels: Channels of the five stages, the first two of which are single convolutions.
        bottleneck_type: How a module uses its convolutions: ``cat`` joins them, ``add`` adds its input as well.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
        num_convs: Convolutions of a module, two at least.
        with_final_conv: A further 1x1 convolution on the last map, to 1024 channels at least.
        pretrained: Checkpoint that the runner loads after building the model.

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
        in_channels: int,
        channels: Sequence[int],
        bottleneck_type: Fusion,
        norm_cfg: LayerConfig | None,
        act_cfg: LayerConfig | None,
        num_convs: int = 4,
        with_final_conv: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        _check_stages(stdc_type, channels, bottleneck_type, num_convs)
        conv = partial(ConvModule, norm_cfg=norm_cfg, act_cfg=act_cfg)
        module = partial(
            STDCModule, norm_cfg=norm_cfg, act_cfg=act_cfg, num_convs=num_convs, fusion_type=bottleneck_type
        )
        self.pretrained = pretrained
        self.stages = nn.ModuleList(
            conv(*pair, 3, stride=2, padding=1) for pair in pairwise((in_channels, *channels[:2]))
        )
        for (inputs, width), strides in zip(pairwise(channels[1:]), ARCHITECTURES[stdc_type]):
            further = [module(width, width, stride) for stride in strides[1:]]
            self.stages.append(nn.Sequential(module(inputs, width, strides[0]), *further))
        last = max(1024, channels[-1]) if with_final_conv else channels[-1]
        self.final_conv = conv(channels[-1], last, 1) if with_final_conv else None
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


def stdc1(in_channels: int = 3) -> STDCNet:
    """Return the smaller network of the paper."""
    return STDCNet("STDCNet1", in_channels, (32, 64, 256, 512, 1024), "cat", BN, RELU)


def stdc2(in_channels: int = 3) -> STDCNet:
    """Return the larger network of the paper."""
    return STDCNet("STDCNet2", in_channels, (32, 64, 256, 512, 1024), "cat", BN, RELU)


class FusionArguments(TypedDict, total=False):
    """The arguments of `FeatureFusionModule`."""

    in_channels: Required[int]
    out_channels: Required[int]
    scale_factor: int
    norm_cfg: LayerConfig
    act_cfg: LayerConfig


class FeatureFusionModule(nn.Module):
    """Two maps of one size -> (N, out_channels, h, w), with its channels weighted by what the whole map holds.

    Args:
        in_channels: Of both maps together.
        out_channels: Of the result.
        scale_factor: How many times narrower the weights are computed.
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
        narrow = out_channels // scale_factor
        self.conv0 = ConvModule(in_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.attention = nn.Sequential(
            AdaptiveAvgPool2d(1),
            ConvModule(out_channels, narrow, 1, bias=False, act_cfg=act_cfg),
            ConvModule(narrow, out_channels, 1, bias=False, act_cfg=None),
            nn.Sigmoid(),
        )

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        fused = self.conv0(torch.cat([spatial, context], dim=1))
        return fused + fused * self.attention(fused)


class STDCContextPathNet(Backbone):
    """Images (N, C, H, W) to detail, coarse context, fine context and fused map, at strides 8, 16, 8 and 8.

    The fused map is for the decode head, the others for auxiliary heads; the detail map for one that learns borders.

    Args:
        backbone_cfg: Images to maps at strides 8, 16 and 32: an `STDCNet`.
        last_in_channels: Channels of the backbone's last two maps, the coarsest first.
        out_channels: Channels of the context maps.
        ffm_cfg: Arguments of `FeatureFusionModule`, which joins the detail and the fine context.
        upsample_mode: How maps are enlarged.
        align_corners: Likewise.
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
        last_in_channels: Sequence[int] = (1024, 512),
        out_channels: int = 128,
        ffm_cfg: FusionArguments = {"in_channels": 512, "out_channels": 256, "scale_factor": 4},  # noqa: B006  never changed
        upsample_mode: Literal["nearest", "bilinear", "bicubic"] = "nearest",
        align_corners: bool | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
    ) -> None:
        super().__init__()
        _check_maps(backbone_cfg, last_in_channels, ffm_cfg["in_channels"], out_channels)
        conv = partial(ConvModule, out_channels=out_channels, norm_cfg=norm_cfg)
        self.backbone = backbone_cfg
        self.arms = nn.ModuleList(
            AttentionRefinementModule(width, out_channels, norm_cfg=norm_cfg) for width in last_in_channels
        )
        self.convs = nn.ModuleList(conv(out_channels, kernel_size=3, padding=1) for _ in last_in_channels)
        self.conv_avg = conv(last_in_channels[0], kernel_size=1)
        self.ffm = FeatureFusionModule(**{"norm_cfg": norm_cfg, **ffm_cfg})  # type: ignore[arg-type]
        self.upsample_mode, self.align_corners = upsample_mode, align_corners
        self.channels = (backbone_cfg.channels[0], out_channels, out_channels, ffm_cfg["out_channels"])
        fine, middle, _ = backbone_cfg.strides
        self.strides = (fine, middle, fine, fine)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return four maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        detail, middle, deep = self.backbone(images)
        context = self._enlarged(self.conv_avg(adaptive_avg_pool(deep, 1)), deep)
        coarse = self.convs[0](self._enlarged(self.arms[0](deep) + context, middle))
        fine = self.convs[1](self._enlarged(self.arms[1](middle) + coarse, detail))
        return detail, coarse, fine, self.ffm(detail, fine)

    def _enlarged(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], mode=self.upsample_mode, align_corners=self.align_corners)


def _check_stages(stdc_type: str, channels: Sequence[int], bottleneck_type: str, num_convs: int) -> None:
    if stdc_type not in ARCHITECTURES:
        raise ConfigError(Problem(f"{stdc_type!r} is not {' or '.join(ARCHITECTURES)}", "stdc_type"))
    if bottleneck_type not in get_args(Fusion):
        raise ConfigError(Problem(f"{bottleneck_type!r} is not {' or '.join(get_args(Fusion))}", "bottleneck_type"))
    if len(channels) != 5:
        raise ConfigError(Problem(f"{list(channels)} must have 5 numbers, one for each stage", "channels"))
    if num_convs < 2:
        raise ConfigError(Problem(f"{num_convs} convolutions, two at least are needed", "num_convs"))


def _check_maps(backbone: Backbone, last: Sequence[int], fused: int, out_channels: int) -> None:
    if len(backbone.channels) != 3 or tuple(last) != tuple(reversed(backbone.channels[1:])):
        message = f"{list(last)} must be the channels of the last two of the backbone's three maps, the coarsest first"
        raise ConfigError(
            Problem(message, "last_in_channels", hint=f"its maps have {list(backbone.channels)} channels")
        )
    joined = backbone.channels[0] + out_channels
    if fused != joined:
        raise ConfigError(Problem(f"{fused}, but the maps it joins have {joined} channels", "ffm_cfg.in_channels"))
