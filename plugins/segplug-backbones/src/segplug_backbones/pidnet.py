"""PIDNet: branches for detail, context and borders, as the terms of a PID controller; borders decide which one counts.

    detail, borders, fused = PIDNet(channels=32)(torch.rand(2, 3, 512, 1024))  # all at stride 8

PIDNet-S has 32 ``channels``, M 64; L has 64, 112 ``ppm_channels``, 3 ``num_stem_blocks`` and 4 ``num_branch_blocks``.

Reference: PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers, Xu et al., 2023
(https://arxiv.org/abs/2206.02066).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import ConvModule, LayerConfig, resize
from segplug_backbones.dual_resolution import DAPPM, PAPPM, BasicBlock, Bottleneck, Stages


class PagFM(nn.Module):
    """Pixel-attention-guided fusion: detail takes from context where both agree.

    Detail (N, in_channels, h, w) and context (N, in_channels, any size) -> (N, in_channels, h, w).
    """

    def __init__(self, in_channels: int, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        conv = partial(ConvModule, in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.f_i, self.f_p = conv(), conv()

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        size = detail.shape[2:]
        agreement = (self.f_p(detail) * resize(self.f_i(context), size)).sum(dim=1, keepdim=True).sigmoid()
        return agreement * resize(context, size) + (1 - agreement) * detail


class Bag(nn.Module):
    """Boundary-attention-guided fusion: detail at borders, context elsewhere; three (N, C, h, w) -> one."""

    def __init__(self, channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        super().__init__()
        order = ("norm", "act", "conv")
        self.conv = ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg, order=order)

    def forward(self, detail: Tensor, context: Tensor, borders: Tensor) -> Tensor:
        at_border = borders.sigmoid()
        return self.conv(at_border * detail + (1 - at_border) * context)


class LightBag(nn.Module):
    """`Bag` with 1x1 convolutions."""

    def __init__(self, channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        super().__init__()
        conv = partial(ConvModule, channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.f_p, self.f_i = conv(), conv()

    def forward(self, detail: Tensor, context: Tensor, borders: Tensor) -> Tensor:
        at_border = borders.sigmoid()
        return self.f_p((1 - at_border) * context + detail) + self.f_i(context + at_border * detail)


class PIDNet(Backbone):
    """Images (N, in_channels, H, W) to the detail and the border branch halfway and the fused map, all at stride 8.

    They have 2, 2 and 4 times ``channels`` channels; the first two are for auxiliary classifiers. (MMSegmentation
    returns the fused map second, and alone in evaluation mode.)

    Args:
        in_channels: Channels of the image.
        channels: Width of the stem.
        ppm_channels: Channels of each average in the pyramid of pools.
        num_stem_blocks: Blocks of the stem's and the detail branch's stages; 2 makes the light form.
        num_branch_blocks: Blocks of the context branch's stages.
        align_corners: How context is enlarged.
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
        in_channels: int = 3,
        channels: int = 64,
        ppm_channels: int = 96,
        num_stem_blocks: int = 2,
        num_branch_blocks: int = 3,
        align_corners: bool = False,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "ReLU", "inplace": True},
    ) -> None:
        super().__init__()
        for name, count in (("num_stem_blocks", num_stem_blocks), ("num_branch_blocks", num_branch_blocks)):
            if count < 1:
                raise ConfigError(Problem(f"{count} blocks, one at least is needed", name))
        self.align_corners = align_corners
        conv = partial(ConvModule, norm_cfg=norm_cfg, act_cfg=None)
        make = Stages(lambda inputs, outputs, stride: conv(inputs, outputs, 1, stride=stride), norm_cfg, act_cfg)
        double, fourfold, eightfold = 2 * channels, 4 * channels, 8 * channels
        light = num_stem_blocks == 2
        self.stem = make.stem(in_channels, channels, num_stem_blocks)
        self.relu = nn.ReLU()
        self.i_branch_layers = nn.ModuleList([
            make.stage(BasicBlock, double, fourfold, num_branch_blocks, stride=2),
            make.stage(BasicBlock, fourfold, eightfold, num_branch_blocks, stride=2),
            make.stage(Bottleneck, eightfold, eightfold, 2, stride=2),
        ])  # fmt: skip
        self.p_branch_layers = nn.ModuleList([
            make.stage(BasicBlock, double, double, num_stem_blocks),
            make.stage(BasicBlock, double, double, num_stem_blocks),
            make.stage(Bottleneck, double, double, 1),
        ])  # fmt: skip
        self.d_branch_layers = nn.ModuleList([
            make.block(BasicBlock, double, channels if light else double),
            make.stage(Bottleneck, channels, channels, 1) if light else make.block(BasicBlock, double, double),
            make.stage(Bottleneck, double, double, 1),
        ])  # fmt: skip
        self.compression_1, self.compression_2 = conv(fourfold, double, 1), conv(eightfold, double, 1)
        self.pag_1, self.pag_2 = PagFM(double, channels, norm_cfg), PagFM(double, channels, norm_cfg)
        self.diff_1 = conv(fourfold, channels if light else double, 3, padding=1)
        self.diff_2 = conv(eightfold, double, 3, padding=1)
        self.spp = (PAPPM if light else DAPPM)(2 * eightfold, ppm_channels, fourfold, norm_cfg, act_cfg)
        self.dfm = (LightBag if light else Bag)(fourfold, norm_cfg, act_cfg)
        self.channels, self.strides = (double, double, fourfold), (8, 8, 8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return three maps, (N, channels[i], ~H/8, ~W/8)."""
        x = self.stem(images)
        context = self.relu(self.i_branch_layers[0](x))
        halfway = self.pag_1(self.p_branch_layers[0](x), self.compression_1(context))
        borders = self.d_branch_layers[0](x)
        borders = borders + self._enlarged(self.diff_1(context), borders)

        context = self.relu(self.i_branch_layers[1](context))
        detail = self.pag_2(self.p_branch_layers[1](self.relu(halfway)), self.compression_2(context))
        borders = self.d_branch_layers[1](self.relu(borders))
        borders = borders + self._enlarged(self.diff_2(context), borders)

        detail = self.p_branch_layers[2](self.relu(detail))
        context = self._enlarged(self.spp(self.i_branch_layers[2](context)), detail)
        fused = self.dfm(detail, context, self.d_branch_layers[2](self.relu(borders)))
        return halfway, borders, fused

    def _enlarged(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], align_corners=self.align_corners)
