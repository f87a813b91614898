"""SeaFormer: a mobile network with squeezed axial attention, in two branches that share their first stages.

    features = SeaFormer("base")(torch.rand(2, 3, 512, 512))  # 64, 192, 256 channels at strides 8, 32, 64

SeaFormer: Squeeze-enhanced Axial Transformer for Mobile Semantic Segmentation, Wan et al., 2023
(https://arxiv.org/abs/2301.13156).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from segkernel.annotations import Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import LayerConfig, check_per_stage, linear_drop_path_rates
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.topformer import (
    MLP,
    Attention,
    ConvBN,
    InvertedResidual,
    Row,
    TransformerBlock,
    TransformerStage,
)

POSITIONS = 16
"""Positions of an axis that are learned; they are interpolated to its length."""
DETAIL_STAGE = 1
"""The stage whose map, at stride 8, both branches share."""


class SeaFormerArch(TypedDict):
    """A custom architecture; the last stages of ``cfgs`` end with attention.

    Args:
        cfgs: Of each stage, kernel size, expansion ratio, channels and stride of its inverted residuals.
        depths: Blocks with attention of each of the last stages.
        key_dims: Channels of the queries and keys of a head, of each of the last stages.
        mlp_ratios: Hidden width of their feed-forward networks, as a multiple of the channels.
        num_heads: Attention heads.
    """

    cfgs: Sequence[Sequence[Row]]
    depths: Sequence[PositiveInt]
    key_dims: Sequence[PositiveInt]
    mlp_ratios: Sequence[Positive]
    num_heads: PositiveInt


def _arch(widths: Sequence[int], depth: int, num_heads: int) -> SeaFormerArch:
    """Return one of the three smaller architectures of the paper, which differ in width only."""
    first, second, third, fourth, fifth = widths
    return SeaFormerArch(
        cfgs=(
            ((3, 1, 16, 1), (3, 4, first, 2), (3, 3, first, 1)),
            ((5, 3, second, 2), (5, 3, second, 1)),
            ((3, 3, third, 2), (3, 3, third, 1)),
            ((5, 3 if depth == 2 else 4, fourth, 2),),
            ((3, 6, fifth, 2),),
        ),
        depths=(depth, depth),
        key_dims=(16, 24),
        mlp_ratios=(2, 4),
        num_heads=num_heads,
    )


ARCHS: dict[str, SeaFormerArch] = {
    "tiny": _arch((16, 32, 64, 128, 160), 2, 4),
    "small": _arch((24, 48, 96, 160, 192), 3, 6),
    "base": _arch((32, 64, 128, 192, 256), 4, 8),
    "large": SeaFormerArch(
        cfgs=(
            ((3, 3, 32, 1), (3, 4, 64, 2), (3, 4, 64, 1)),
            ((5, 4, 128, 2), (5, 4, 128, 1)),
            ((3, 4, 192, 2), (3, 4, 192, 1)),
            ((5, 4, 256, 2),),
            ((3, 6, 320, 2),),
        ),
        depths=(3, 3, 3),
        key_dims=(16, 20, 24),
        mlp_ratios=(2, 4, 6),
        num_heads=8,
    ),
}
"""Table 7 of the paper."""
Arch = Literal["tiny", "small", "base", "large"]


class AxisPositions(nn.Module):
    """Add position embeddings of an axis to (N, C, L)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, channels, POSITIONS))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.interpolate(self.pos_embed, x.shape[2], mode="linear", align_corners=False)


class SeaAttention(Attention):
    """Squeeze-enhanced axial attention, section 3.3 of the paper: (N, C, H, W) -> the same shape.

    Rows and columns are averaged, attend to each other along the other axis, and are spread over the map again; a
    depthwise convolution of queries, keys and values keeps the details.

    Args:
        channels: C.
        key_dim: Channels of the queries and keys of a head; values have twice as many.
        num_heads: Attention heads.
        norm_cfg: Type of the norms.
    """

    def __init__(self, channels: int, key_dim: int, num_heads: int, norm_cfg: LayerConfig) -> None:
        super().__init__(channels, key_dim, num_heads, norm_cfg)
        keys, values = key_dim * num_heads, 2 * key_dim * num_heads
        self.proj_encode_row = nn.Sequential(nn.ReLU6(), ConvBN(values, values, norm_cfg=norm_cfg))
        self.pos_emb_rowq, self.pos_emb_rowk = AxisPositions(keys), AxisPositions(keys)
        self.proj_encode_column = nn.Sequential(nn.ReLU6(), ConvBN(values, values, norm_cfg=norm_cfg))
        self.pos_emb_columnq, self.pos_emb_columnk = AxisPositions(keys), AxisPositions(keys)
        joined = 2 * keys + values
        self.dwconv = ConvBN(joined, joined, 3, norm_cfg=norm_cfg, groups=joined)
        self.act = nn.ReLU6()
        self.pwconv = ConvBN(joined, channels, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        details = self.pwconv(self.act(self.dwconv(torch.cat([q, k, v], 1))))
        rows = self._attend(self.pos_emb_rowq(q.mean(3)), self.pos_emb_rowk(k.mean(3)), v.mean(3))
        columns = self._attend(self.pos_emb_columnq(q.mean(2)), self.pos_emb_columnk(k.mean(2)), v.mean(2))
        axial = self.proj_encode_row(rows.unsqueeze(3)) + self.proj_encode_column(columns.unsqueeze(2))
        return F.hardsigmoid(self.proj(v + axial)) * details

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the attention along an axis, (N, C, L) -> the same shape."""
        q, k, v = (x.unflatten(1, (self.num_heads, -1)).transpose(2, 3) for x in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)


class MobileStage(nn.Module):
    """Inverted residuals, the first of which may follow a stem: (N, C, H, W) -> (N, D, h, w)."""

    def __init__(
        self, in_channels: int, rows: Sequence[Row], norm_cfg: LayerConfig, stem_channels: int | None = None
    ) -> None:
        super().__init__()
        self.stem_block = None
        if stem_channels:
            self.stem_block = nn.Sequential(
                ConvBN(in_channels, stem_channels, 3, norm_cfg=norm_cfg, stride=2), nn.ReLU()
            )
        widths = [stem_channels or in_channels, *(row[2] for row in rows)]
        for i, row in enumerate(rows):
            self.add_module(f"layer{i + 1}", InvertedResidual(widths[i], row, norm_cfg))
        self.depth = len(rows)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.stem_block is None else self.stem_block(x)
        for i in range(self.depth):
            x = getattr(self, f"layer{i + 1}")(x)
        return x


class SeaFormer(Pretrained, Backbone):
    """Images (N, in_channels, H, W) to the shared map at stride 8, and that of each stage with attention.

    Sizes that are not divisible by a stride are rounded up.

    Args:
        arch: A name, or ``{cfgs, depths, key_dims, mlp_ratios, num_heads}``.
        in_channels: Channels of the image.
        stem_channels: Channels of the first convolution.
        drop_path_rate: Drop path rate of the last block of each stage; it rises linearly from 0 at its first one.
        norm_cfg: Type of the norms and its arguments.
        pretrained: Weights to load: a file, an address, or a known name.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {
        "arch": {
            "cfgs": [[[3, 1, 8, 2]], [[3, 2, 8, 2]], [[5, 2, 16, 2]]],
            "depths": [1],
            "key_dims": [4],
            "mlp_ratios": [2],
            "num_heads": 2,
        },
        "stem_channels": 8,
    }

    def __init__(
        self,
        arch: Arch | SeaFormerArch = "base",
        in_channels: PositiveInt = 3,
        stem_channels: PositiveInt | None = None,
        drop_path_rate: Probability = 0.1,
        norm_cfg: Mapping[str, Any] = {"type": "BN", "requires_grad": True},
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        sizes = ARCHS[arch] if isinstance(arch, str) else arch
        stages, depths = sizes["cfgs"], sizes["depths"]
        check_per_stage(len(depths), {"arch.key_dims": sizes["key_dims"], "arch.mlp_ratios": sizes["mlp_ratios"]})
        self.first_attention = len(stages) - len(depths)
        if self.first_attention < 0 or len(stages) <= DETAIL_STAGE:
            raise ConfigError(Problem(f"{len(depths)} stages with attention of {len(stages)}", "arch.depths"))
        self.pretrained, self.num_stages = pretrained, len(stages)
        stem = stem_channels or stages[0][0][2]
        widths = [in_channels, *(rows[-1][2] for rows in stages)]
        stride, channels, strides = 2, [], []
        for i, rows in enumerate(stages):
            self.add_module(f"smb{i + 1}", MobileStage(widths[i], rows, norm_cfg, stem if i == 0 else None))
            for row in rows:
                stride *= row[3]
            if i == DETAIL_STAGE:
                channels.append(widths[i + 1])
                strides.append(stride)
            j = i - self.first_attention
            if j >= 0:
                width, ratio = widths[i + 1], sizes["mlp_ratios"][j]
                blocks = [
                    TransformerBlock(
                        SeaAttention(width, sizes["key_dims"][j], sizes["num_heads"], norm_cfg),
                        MLP(width, int(ratio * width), norm_cfg),
                        rate,
                    )
                    for rate in linear_drop_path_rates(drop_path_rate, depths[j])
                ]
                self.add_module(f"trans{j + 1}", TransformerStage(blocks))
                channels.append(width)
                strides.append(stride)
        self.channels, self.strides = tuple(channels), tuple(strides)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        maps = []
        for i in range(self.num_stages):
            x = getattr(self, f"smb{i + 1}")(x)
            if i == DETAIL_STAGE:
                maps.append(x)
            if i >= self.first_attention:
                x = getattr(self, f"trans{i - self.first_attention + 1}")(x)
                maps.append(x)
        return tuple(maps)
