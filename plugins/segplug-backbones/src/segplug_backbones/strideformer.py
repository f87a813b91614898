"""StrideFormer, the backbone of PP-MobileSeg: MobileNetV3 blocks, strided axial attention, and one fused map.

    features, = StrideFormer("base")(torch.rand(2, 3, 512, 512))     # 256 channels at stride 8

PP-MobileSeg: Explore the Fast and Accurate Semantic Segmentation Model on Mobile Devices, Tang et al., 2023
(https://arxiv.org/abs/2304.05152).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import ConvModule, LayerConfig, check_per_stage, linear_drop_path_rates, resize
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.seaformer import SeaAttention
from segplug_backbones.squeeze import SELayer
from segplug_backbones.topformer import MLP, TransformerBlock, TransformerStage

Row = Sequence[Any]
"""Kernel size, expanded channels, channels, whether there is squeeze-and-excitation, activation, stride."""
DETAIL_STAGE = 1
"""The stage whose map, at stride 8, keeps the details."""
KEY_DIMS, MLP_RATIOS = (16, 24), (2, 4)


class StrideFormerArch(TypedDict):
    """A custom architecture.

    Args:
        cfgs: Of each of four stages its MobileNetV3 blocks: kernel size, expanded channels, channels, whether there is
            squeeze-and-excitation, type of the activation, stride.
        depths: Blocks with attention of the last two stages.
        num_heads: Attention heads.
        inj_type: ``AAM`` fuses at half of the finest map's size, ``AAMSx8`` at its size.
    """

    cfgs: Sequence[Sequence[Row]]
    depths: Sequence[PositiveInt]
    num_heads: PositiveInt
    inj_type: Literal["AAM", "AAMSx8"]


ARCHS: dict[str, StrideFormerArch] = {
    "tiny": StrideFormerArch(
        cfgs=(
            ((3, 16, 16, True, "ReLU", 1), (3, 64, 32, False, "ReLU", 2), (3, 48, 24, False, "ReLU", 1)),
            ((5, 96, 32, True, "HSwish", 2), (5, 96, 32, True, "HSwish", 1)),
            ((5, 160, 64, True, "HSwish", 2), (5, 160, 64, True, "HSwish", 1)),
            ((3, 384, 128, True, "HSwish", 2), (3, 384, 128, True, "HSwish", 1)),
        ),
        depths=(2, 2),
        num_heads=4,
        inj_type="AAM",
    ),
    "base": StrideFormerArch(
        cfgs=(
            ((3, 16, 16, True, "ReLU", 1), (3, 64, 32, False, "ReLU", 2), (3, 96, 32, False, "ReLU", 1)),
            ((5, 128, 64, True, "HSwish", 2), (5, 240, 64, True, "HSwish", 1)),
            ((5, 384, 128, True, "HSwish", 2), (5, 384, 128, True, "HSwish", 1)),
            ((5, 768, 192, True, "HSwish", 2), (5, 768, 192, True, "HSwish", 1)),
        ),
        depths=(3, 3),
        num_heads=8,
        inj_type="AAMSx8",
    ),
}
"""Table 1 of the paper."""
Arch = Literal["tiny", "base"]


class MobileBlock(nn.Module):
    """The inverted residual of MobileNetV3: (N, C, H, W) -> (N, D, ~H / stride, ~W / stride)."""

    def __init__(self, in_channels: int, row: Row, norm_cfg: LayerConfig) -> None:
        super().__init__()
        kernel_size, hidden, channels, squeezes, activation, stride = row
        layers: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": {"type": activation}}
        self.has_identity = stride == 1 and in_channels == channels
        self.expand_conv = ConvModule(in_channels, hidden, 1, **layers)
        self.bottleneck_conv = ConvModule(
            hidden, hidden, kernel_size, stride=stride, padding=kernel_size // 2, groups=hidden, **layers
        )
        self.mid_se = None
        if squeezes:
            # The hard sigmoid of Paddle, clamp(0.2 x + 0.5).
            gate = {"type": "HSigmoid", "bias": 2.5, "divisor": 5.0}
            self.mid_se = SELayer(hidden, hidden // 4, act_cfg=({"type": "ReLU"}, gate))
        self.linear_conv = ConvModule(hidden, channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bottleneck_conv(self.expand_conv(x))
        out = self.linear_conv(out if self.mid_se is None else self.mid_se(out))
        return x + out if self.has_identity else out


class MobileStage(nn.Module):
    """`MobileBlock` after another, the first of which may follow a strided convolution."""

    def __init__(self, in_channels: int, rows: Sequence[Row], norm_cfg: LayerConfig, stem: bool = False) -> None:
        super().__init__()
        width = rows[0][2] if stem else in_channels
        self.conv = None
        if stem:
            self.conv = ConvModule(
                in_channels, width, 3, stride=2, padding=1, norm_cfg=norm_cfg, act_cfg={"type": "HSwish"}
            )
        widths = [width, *(row[2] for row in rows)]
        self.blocks = nn.ModuleList(MobileBlock(widths[i], row, norm_cfg) for i, row in enumerate(rows))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.conv is None else self.conv(x)
        for block in self.blocks:
            x = block(x)
        return x


class StridedAttention(SeaAttention):
    """`SeaAttention` of a map of half the size, section 3.2 of the paper."""

    def __init__(self, channels: int, key_dim: int, num_heads: int, norm_cfg: LayerConfig) -> None:
        super().__init__(channels, key_dim, num_heads, norm_cfg)
        self.stride_conv = ConvModule(
            channels, channels, 3, stride=2, padding=1, groups=channels, bias=True, norm_cfg=norm_cfg, act_cfg=None
        )

    def forward(self, x: Tensor) -> Tensor:
        return resize(super().forward(self.stride_conv(x)), (x.shape[2], x.shape[3]))


class AggregatedAttention(nn.Module):
    """The aggregated attention module, section 3.3 of the paper: details, weighed by every map, plus semantics.

    Three maps, finest first, to (N, out_channels, h, w).

    Args:
        in_channels: Channels of the maps.
        out_channels: Channels of the result.
        norm_cfg: Type of the norms.
        at_finest: Fuse at the size of the finest map, with its details alone; otherwise at half of it, with those of
            the next map as well.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, norm_cfg: LayerConfig, at_finest: bool) -> None:
        super().__init__()
        self.at_finest = at_finest
        fine, middle, coarse = in_channels
        embedded, weighing = ((fine, coarse), (middle, coarse)) if at_finest else (tuple(in_channels),) * 2
        self.embedding_list = nn.ModuleList(
            ConvModule(width, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None) for width in embedded
        )
        self.act_embedding_list = nn.ModuleList(
            ConvModule(width, out_channels, 1, norm_cfg=norm_cfg, act_cfg={"type": "Sigmoid"}) for width in weighing
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fine, middle, coarse = maps
        size = (fine.shape[2], fine.shape[3])
        if not self.at_finest:
            size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
            fine = resize(fine, size)
        middle = resize(middle, size)
        semantics = resize(self.embedding_list[-1](coarse), size)
        weight = resize(self.act_embedding_list[-1](coarse), size)
        if self.at_finest:
            return self.act_embedding_list[0](middle) * weight * self.embedding_list[0](fine) + semantics
        weight = self.act_embedding_list[0](fine) * self.act_embedding_list[1](middle) * weight
        return weight * (self.embedding_list[0](fine) + self.embedding_list[1](middle)) + semantics


class StrideFormer(Pretrained, Backbone):
    """Images (N, in_channels, H, W) to one map, at stride 8 (``AAMSx8``, base) or 16 (``AAM``, tiny).

    Sizes that are not divisible by a stride are rounded up. The head of PP-MobileSeg is `TopFormerHead` on this map,
    with ``is_dw``.

    Args:
        arch: A name, or ``{cfgs, depths, num_heads, inj_type}``.
        in_channels: Channels of the image.
        out_channels: Channels of the output.
        drop_path_rate: Drop path rate of the last block of each stage; it rises linearly from 0 at its first one.
        norm_cfg: Type of the norms and its arguments.
        pretrained: Weights to load: a file, an address, or a known name.

    Raises:
        ConfigError: There are not four stages, or not two of them with attention.
    """

    conformance: ClassVar = {
        "arch": {
            "cfgs": [
                [[3, 8, 8, True, "ReLU", 2]],
                [[3, 16, 8, False, "ReLU", 2]],
                [[3, 16, 16, True, "HSwish", 2]],
                [[3, 32, 16, True, "HSwish", 2]],
            ],
            "depths": [1, 1],
            "num_heads": 2,
            "inj_type": "AAM",
        },
        "out_channels": 8,
    }

    def __init__(
        self,
        arch: Arch | StrideFormerArch = "base",
        in_channels: PositiveInt = 3,
        out_channels: PositiveInt = 256,
        drop_path_rate: Probability = 0.1,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        sizes = ARCHS[arch] if isinstance(arch, str) else arch
        stages, depths = sizes["cfgs"], sizes["depths"]
        if len(stages) != 4:
            raise ConfigError(Problem(f"{len(stages)} stages; there are four", "arch.cfgs"))
        check_per_stage(2, {"arch.depths": depths})
        self.pretrained = pretrained
        widths = [in_channels, *(rows[-1][2] for rows in stages)]
        for i, rows in enumerate(stages):
            self.add_module(f"smb{i + 1}", MobileStage(widths[i], rows, norm_cfg, stem=i == 0))
        for j, depth in enumerate(depths):
            width = widths[3 + j]
            blocks = [
                TransformerBlock(
                    StridedAttention(width, KEY_DIMS[j], sizes["num_heads"], norm_cfg),
                    MLP(width, MLP_RATIOS[j] * width, norm_cfg),
                    rate,
                )
                for rate in linear_drop_path_rates(drop_path_rate, depth)
            ]
            self.add_module(f"trans{j + 1}", TransformerStage(blocks))
        at_finest = sizes["inj_type"] == "AAMSx8"
        self.inj_module = AggregatedAttention(widths[2:], out_channels, norm_cfg, at_finest)
        stride = 2
        for rows in stages[: DETAIL_STAGE + 1]:
            for row in rows:
                stride *= row[5]
        self.channels, self.strides = (out_channels,), (stride if at_finest else 2 * stride,)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the fused map, (N, out_channels, ~H / stride, ~W / stride)."""
        x, maps = images, []
        for i in range(4):
            x = getattr(self, f"smb{i + 1}")(x)
            if i > DETAIL_STAGE:
                x = getattr(self, f"trans{i - DETAIL_STAGE}")(x)
            if i >= DETAIL_STAGE:
                maps.append(x)
        return (self.inj_module(maps),)
