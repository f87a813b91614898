"""PIDNet: three branches for detail, context and boundaries, the terms of a PID controller, fused at the end.

    detail, borders, fused = PIDNet(channels=32)(torch.rand(2, 3, 512, 1024))  # all at stride 8

PIDNet-S has 32 ``channels``, M 64; L has 64, 112 ``ppm_channels``, 3 ``num_stem_blocks`` and 4 ``num_branch_blocks``.

PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers, Xu et al., 2023
(https://arxiv.org/abs/2206.02066).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import ConvModule, LayerConfig, resize
from segplug_backbones.dual_resolution import DAPPM, PAPPM, BasicBlock, Bottleneck, StageBuilder


class PagFM(nn.Module):
    """Pixel-attention-guided fusion (Pag): similarity-gated sum of detail and context, equation 7 of the paper.

    Detail (N, in_channels, h, w) and context (N, in_channels, any size) -> (N, in_channels, h, w).
    """

    def __init__(self, in_channels: int, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.f_i = ConvModule(in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.f_p = ConvModule(in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        # Without the model's `align_corners`: the authors' module has none, whichever the rest of the network uses.
        size = detail.shape[2:]
        agreement = (self.f_p(detail) * resize(self.f_i(context), size)).sum(dim=1, keepdim=True).sigmoid()
        return torch.lerp(detail, resize(context, size), agreement)


class Bag(nn.Module):
    """Boundary-attention-guided fusion: detail at boundaries, context elsewhere; three maps (N, C, h, w) -> one.

    out = f(s * detail + (1 - s) * context) with s the sigmoid of the boundary map: Bag, in the paper's section on
    balancing details and contexts.
    """

    def __init__(self, channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        super().__init__()
        order = ("norm", "act", "conv")
        self.conv = ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg, order=order)

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        attention = boundary.sigmoid()
        return self.conv(torch.lerp(context, detail, attention))


class LightBag(nn.Module):
    """Light-Bag of the same section: out = f_p((1 - s) * context + detail) + f_i(context + s * detail).

    Detail enters f_p, and context f_i, without attenuation; both are 1x1 convolutions.
    """

    def __init__(self, channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        super().__init__()
        self.f_p = ConvModule(channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.f_i = ConvModule(channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        attention = boundary.sigmoid()
        out = self.f_p(torch.addcmul(context + detail, attention, context, value=-1))
        out += self.f_i(torch.addcmul(context, attention, detail))
        return out


class PIDNet(Backbone):
    """Images (N, in_channels, H, W) to detail and boundary maps for auxiliary heads and the fused map, all at stride 8.

    They have 2, 2 and 4 times ``channels`` channels. (MMSegmentation returns the fused map second, and alone in
    evaluation mode.)

    Args:
        in_channels: Channels of the image.
        channels: Width of the stem.
        ppm_channels: Channels of each scale of the pyramid pooling.
        num_stem_blocks: Blocks of each stage of the stem and of the detail branch; with 2, the network has the light
            fusion and pyramid pooling of PIDNet-S and M.
        num_branch_blocks: Blocks of each stage of the context branch.
        align_corners: As in `segkernel.nn.resize`.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.

    Raises:
        ConfigError: When a number of blocks is below 1.
    """

    conformance: ClassVar = (
        {"channels": 4, "ppm_channels": 4},
        {"channels": 4, "ppm_channels": 4, "num_stem_blocks": 3, "num_branch_blocks": 1},
    )

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        channels: PositiveInt = 64,
        ppm_channels: PositiveInt = 96,
        num_stem_blocks: PositiveInt = 2,
        num_branch_blocks: PositiveInt = 3,
        align_corners: bool = False,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "ReLU", "inplace": True},
    ) -> None:
        super().__init__()
        for name, count in (("num_stem_blocks", num_stem_blocks), ("num_branch_blocks", num_branch_blocks)):
            if count < 1:
                raise ConfigError(Problem(f"{count} blocks; at least 1 is needed", name))
        self.align_corners = align_corners
        layers: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": None}
        build = StageBuilder(partial(_shortcut, norm_cfg), norm_cfg, act_cfg)
        double, fourfold, eightfold = 2 * channels, 4 * channels, 8 * channels
        # The authors' switch: S and M have 2 stem blocks and the light modules, L has 3 and the full ones.
        light = num_stem_blocks == 2
        self.stem = build.stem(in_channels, channels, num_stem_blocks)
        self.relu = nn.ReLU()
        self.i_branch_layers = nn.ModuleList([
            build.stage(BasicBlock, double, fourfold, num_branch_blocks, stride=2),
            build.stage(BasicBlock, fourfold, eightfold, num_branch_blocks, stride=2),
            build.stage(Bottleneck, eightfold, eightfold, 2, stride=2),
        ])  # fmt: skip
        self.p_branch_layers = nn.ModuleList([
            build.stage(BasicBlock, double, double, num_stem_blocks),
            build.stage(BasicBlock, double, double, num_stem_blocks),
            build.stage(Bottleneck, double, double, 1),
        ])  # fmt: skip
        self.d_branch_layers = nn.ModuleList([
            build.block(BasicBlock, double, channels if light else double),
            build.stage(Bottleneck, channels, channels, 1) if light else build.block(BasicBlock, double, double),
            build.stage(Bottleneck, double, double, 1),
        ])  # fmt: skip
        self.compression_1 = ConvModule(fourfold, double, 1, **layers)
        self.compression_2 = ConvModule(eightfold, double, 1, **layers)
        self.pag_1, self.pag_2 = PagFM(double, channels, norm_cfg), PagFM(double, channels, norm_cfg)
        self.diff_1 = ConvModule(fourfold, channels if light else double, 3, padding=1, **layers)
        self.diff_2 = ConvModule(eightfold, double, 3, padding=1, **layers)
        self.spp = (PAPPM if light else DAPPM)(2 * eightfold, ppm_channels, fourfold, norm_cfg, act_cfg)
        self.dfm = (LightBag if light else Bag)(fourfold, norm_cfg, act_cfg)
        self.channels, self.strides = (double, double, fourfold), (8, 8, 8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return three maps, (N, channels[i], ~H/8, ~W/8)."""
        # P (detail) and D (boundary) stay at stride 8; I (context) goes down to 16, 32 and 64 and is merged into both.
        x = self.stem(images)
        context = self.relu(self.i_branch_layers[0](x))
        halfway = self.pag_1(self.p_branch_layers[0](x), self.compression_1(context))
        boundary = self.d_branch_layers[0](x)
        boundary = boundary + self._upsample(self.diff_1(context), boundary)

        context = self.relu(self.i_branch_layers[1](context))
        detail = self.pag_2(self.p_branch_layers[1](self.relu(halfway)), self.compression_2(context))
        boundary = self.d_branch_layers[1](self.relu(boundary))
        boundary = boundary + self._upsample(self.diff_2(context), boundary)

        detail = self.p_branch_layers[2](self.relu(detail))
        context = self._upsample(self.spp(self.i_branch_layers[2](context)), detail)
        fused = self.dfm(detail, context, self.d_branch_layers[2](self.relu(boundary)))
        return halfway, boundary, fused

    def _upsample(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], align_corners=self.align_corners)


def _shortcut(norm_cfg: Mapping[str, Any], in_channels: int, channels: int, stride: int) -> nn.Module:
    return ConvModule(in_channels, channels, 1, stride=stride, norm_cfg=norm_cfg, act_cfg=None)
