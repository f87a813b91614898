"""BiSeNet V2: a detail branch and a light semantic branch, which gate each other before they are added.

    maps = BiSeNetV2()(torch.rand(2, 3, 512, 1024))  # the fused map at stride 8, then strides 4, 8, 16, 32

BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation, Yu et al., 2021
(https://arxiv.org/abs/2004.02147).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import (
    AdaptiveAvgPool2d,
    ConvModule,
    DepthwiseSeparableConvModule,
    LayerConfig,
    build_activation,
    build_norm,
    check_out_indices,
    resize,
)


class DetailBranch(nn.Module):
    """Wide and shallow: (N, in_channels, H, W) -> (N, detail_channels[-1], ~H/8, ~W/8), one stage per channel count."""

    def __init__(
        self,
        detail_channels: Sequence[int],
        in_channels: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        conv = partial(ConvModule, kernel_size=3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.detail_branch = nn.ModuleList()
        for index, (inputs, width) in enumerate(pairwise((in_channels, *detail_channels))):
            # Table 1 of the paper: two convolutions in the first stage, three in the others.
            others = (conv(width, width) for _ in range(2 if index else 1))
            self.detail_branch.append(nn.Sequential(conv(inputs, width, stride=2), *others))

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.detail_branch:
            x = stage(x)
        return x


class StemBlock(nn.Module):
    """(N, in_channels, H, W) -> (N, out_channels, ~H/4, ~W/4): convolutions and a max pool in parallel."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        conv = partial(ConvModule, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        half = out_channels // 2
        self.conv_first = conv(in_channels, out_channels, 3, stride=2, padding=1)
        self.convs = nn.Sequential(conv(out_channels, half, 1), conv(half, out_channels, 3, stride=2, padding=1))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fuse_last = conv(out_channels * 2, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        return self.fuse_last(torch.cat([self.convs(x), self.pool(x)], dim=1))


class GELayer(nn.Module):
    """Gather-and-expansion layer: an inverted residual with a 3x3 convolution first; figure 5 of the paper.

    (N, in_channels, h, w) -> (N, out_channels, ~h/stride, ~w/stride), stride 1 or 2; 1 keeps the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        exp_ratio: int,
        stride: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        conv = partial(ConvModule, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        depthwise = partial(conv, kernel_size=3, padding=1)
        hidden = in_channels * exp_ratio
        self.conv1 = conv(in_channels, in_channels, 3, padding=1)
        self.shortcut = None
        if stride == 1:
            # As in the reference; the paper has no activation after the depthwise convolution, here and below.
            self.dwconv = nn.Sequential(depthwise(in_channels, hidden, groups=in_channels))
        else:
            expand = depthwise(in_channels, hidden, stride=stride, groups=in_channels, act_cfg=None)
            self.dwconv = nn.Sequential(expand, depthwise(hidden, hidden, groups=hidden))
            # The shortcut has no conv_cfg, as in MMSegmentation.
            self.shortcut = nn.Sequential(
                DepthwiseSeparableConvModule(
                    in_channels, out_channels, 3, stride=stride, padding=1, norm_cfg=norm_cfg, act_cfg=None
                )
            )
        self.conv2 = nn.Sequential(conv(hidden, out_channels, 1, act_cfg=None))
        self.act = build_activation(act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.dwconv(self.conv1(x)))
        return self.act(out + (x if self.shortcut is None else self.shortcut(x)))


class CEBlock(nn.Module):
    """Context embedding block: the global average is added to every pixel; (N, C, h, w) -> (N, C, h, w)."""

    def __init__(
        self, channels: int, conv_cfg: LayerConfig | None, norm_cfg: LayerConfig, act_cfg: LayerConfig
    ) -> None:
        super().__init__()
        conv = partial(ConvModule, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.gap = nn.Sequential(AdaptiveAvgPool2d(1), build_norm(norm_cfg, channels)[1])
        self.conv_gap = conv(channels, channels, 1)
        # As in the reference; the paper has no norm and activation after this convolution.
        self.conv_last = conv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_last(x + self.conv_gap(self.gap(x)))


class SemanticBranch(nn.Module):
    """Narrow and deep: images to a map of each stage, at strides 4, 8, 16, ..., and the last one with its context."""

    def __init__(
        self,
        semantic_channels: Sequence[int],
        in_channels: int,
        exp_ratio: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        count = len(semantic_channels)
        self.stage1 = StemBlock(in_channels, semantic_channels[0], **layers)
        for number, (inputs, width) in enumerate(pairwise(semantic_channels), start=2):
            first = GELayer(inputs, width, exp_ratio, stride=2, **layers)
            # Table 1 of the paper: four layers in the last stage, two in those before it.
            others = (GELayer(width, width, exp_ratio, stride=1, **layers) for _ in range(3 if number == count else 1))
            self.add_module(f"stage{number}", nn.Sequential(first, *others))
        self.add_module(f"stage{count}_CEBlock", CEBlock(semantic_channels[-1], **layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.children():  # in the order they were added: the stages, then the context embedding
            x = stage(x)
            outputs.append(x)
        return outputs


class BGALayer(nn.Module):
    """Bilateral guided aggregation: each branch gates the other one at its own resolution, and the results are added.

    Detail (N, C, h, w) and semantics (N, C, ~h/4, ~w/4) -> (N, C, h, w).
    """

    def __init__(
        self,
        out_channels: int,
        align_corners: bool,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        conv = partial(ConvModule, out_channels, out_channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        separable = partial(
            DepthwiseSeparableConvModule,
            *(out_channels, out_channels, 3),
            padding=1,
            norm_cfg=norm_cfg,
            act_cfg=None,
            pw_norm_cfg=None,
        )
        self.detail_dwconv = nn.Sequential(separable())
        self.detail_down = nn.Sequential(conv(stride=2, act_cfg=None), nn.AvgPool2d(3, stride=2, padding=1))
        self.semantic_conv = nn.Sequential(conv(act_cfg=None))
        self.semantic_dwconv = nn.Sequential(separable())
        self.conv = conv(act_cfg=act_cfg)
        self.align_corners = align_corners

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        size = detail.shape[2:]
        gate = resize(self.semantic_conv(semantic), size, align_corners=self.align_corners).sigmoid()
        fine = self.detail_dwconv(detail) * gate
        coarse = self.detail_down(detail) * self.semantic_dwconv(semantic).sigmoid()
        return self.conv(fine + resize(coarse, size, align_corners=self.align_corners))


class BiSeNetV2(Backbone):
    """Images (N, in_channels, H, W) to the fused map and those of the semantic stages, at strides 8, 4, 8, 16, 32.

    The semantic maps are for auxiliary heads.

    Args:
        in_channels: Channels of the image.
        detail_channels: Channels of the detail branch's three stages.
        semantic_channels: Channels of the semantic branch's four stages.
        semantic_expansion_ratio: Hidden channels of the semantic blocks, as a multiple of their input channels.
        bga_channels: Channels of the fused map, and of the last stage of both branches.
        out_indices: The maps to return: 0 the fused one, n the n-th semantic stage.
        align_corners: As in `segkernel.nn.resize`.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {
        "detail_channels": (4, 4, 8),
        "semantic_channels": (4, 4, 6, 8),
        "semantic_expansion_ratio": 2,
        "bga_channels": 8,
    }
    conformance_exceptions: ClassVar = {"order": "the fused map comes first, as in MMSegmentation"}

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        detail_channels: Sequence[PositiveInt] = (64, 64, 128),
        semantic_channels: Sequence[PositiveInt] = (16, 32, 64, 128),
        semantic_expansion_ratio: PositiveInt = 6,
        bga_channels: PositiveInt = 128,
        out_indices: Sequence[int] = (0, 1, 2, 3, 4),
        align_corners: bool = False,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "ReLU"},
    ) -> None:
        super().__init__()
        _check_channels(detail_channels, semantic_channels, bga_channels)
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.out_indices = check_out_indices(out_indices, 5)
        self.detail = DetailBranch(detail_channels, in_channels, **layers)
        self.semantic = SemanticBranch(semantic_channels, in_channels, semantic_expansion_ratio, **layers)
        self.bga = BGALayer(bga_channels, align_corners, **layers)
        channels, strides = (bga_channels, *semantic_channels), (8, 4, 8, 16, 32)
        self.channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        *stages, context = self.semantic(images)
        outputs = {i: x for i, x in enumerate(stages, start=1) if i in self.out_indices}
        del stages  # others take no memory afterwards
        if 0 in self.out_indices:
            outputs[0] = self.bga(self.detail(images), context)
        return tuple(outputs[i] for i in self.out_indices)


def _check_channels(detail: Sequence[int], semantic: Sequence[int], joined: int) -> None:
    for name, values, count in (("detail_channels", detail, 3), ("semantic_channels", semantic, 4)):
        if len(values) != count:
            raise ConfigError(Problem(f"{list(values)} must have {count} numbers", name))
        if values[-1] != joined:
            raise ConfigError(Problem(f"{list(values)} must end with bga_channels, {joined}", name))
