"""MobileNetV4: universal inverted bottlenecks, and multi-query attention on coarse maps.

    features = MobileNetV4("conv_small", out_indices=(1, 2, 3, 4))(torch.rand(2, 3, 512, 512))
    # 32, 64, 96, 960 channels at strides 4, 8, 16, 32

MobileNetV4: Universal Models for the Mobile Ecosystem, Qin et al., 2024 (https://arxiv.org/abs/2404.10518).
State-dict keys are timm's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import PositiveInt, Probability
from segkernel.nn import (
    ConvModule,
    DropPath,
    FreezableBackbone,
    LayerConfig,
    build_activation,
    build_norm,
    check_frozen_stages,
    check_out_indices,
    checkpoint_block,
    linear_drop_path_rates,
)
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.squeeze import make_divisible
from segplug_backbones.staged import LayerScale, find_arch


class Conv(NamedTuple):
    """A convolution: side of the kernel, output channels, stride."""

    kernel: int
    channels: int
    stride: int = 1


class FusedIB(NamedTuple):
    """A fused inverted bottleneck with a 3x3 convolution of stride 2: expansion ratio, output channels."""

    expansion: int
    channels: int


class UIB(NamedTuple):
    """A universal inverted bottleneck.

    Args:
        start: Side of the depthwise kernel before the expansion; 0 for none.
        middle: Side of the depthwise kernel after the expansion; 0 for none.
        expansion: Ratio of the hidden channels to the input's.
        channels: Output channels.
        stride: Stride of the last depthwise convolution.
    """

    start: int
    middle: int
    expansion: int
    channels: int
    stride: int = 1


class MobileMQA(NamedTuple):
    """Multi-query attention: heads, channels of a head, channels, stride of keys and values."""

    heads: int
    head_channels: int
    channels: int
    kv_stride: int


Row = Conv | FusedIB | UIB | MobileMQA


class Arch(NamedTuple):
    """A published network.

    Args:
        stem: Channels of the stem, which ``width`` does not scale.
        stages: The blocks of each stage.
        activation: ``ReLU`` or ``GELU``.
        layer_scale: Whether residual branches have a layer scale.
        width: Factor of all channels but the stem's.
    """

    stem: int
    stages: tuple[tuple[Row, ...], ...]
    activation: str = "ReLU"
    layer_scale: bool = False
    width: float = 1.0


CONV_SMALL = Arch(
    32,
    (
        (Conv(3, 32, 2), Conv(1, 32)),
        (Conv(3, 96, 2), Conv(1, 64)),
        (UIB(5, 5, 3, 96, 2), *[UIB(0, 3, 2, 96)] * 4, UIB(3, 0, 4, 96)),
        (
            UIB(3, 3, 6, 128, 2), UIB(5, 5, 4, 128), UIB(0, 5, 4, 128), UIB(0, 5, 3, 128),
            UIB(0, 3, 4, 128), UIB(0, 3, 4, 128),
        ),
        (Conv(1, 960),),
    ),
)  # fmt: skip
CONV_MEDIUM = Arch(
    32,
    (
        (FusedIB(4, 48),),
        (UIB(3, 5, 4, 80, 2), UIB(3, 3, 2, 80)),
        (
            UIB(3, 5, 6, 160, 2), UIB(3, 3, 4, 160), UIB(3, 3, 4, 160), UIB(3, 5, 4, 160), UIB(3, 3, 4, 160),
            UIB(3, 0, 4, 160), UIB(0, 0, 2, 160), UIB(3, 0, 4, 160),
        ),
        (
            UIB(5, 5, 6, 256, 2), UIB(5, 5, 4, 256), UIB(3, 5, 4, 256), UIB(3, 5, 4, 256), UIB(0, 0, 4, 256),
            UIB(3, 0, 4, 256), UIB(3, 5, 2, 256), UIB(5, 5, 4, 256), UIB(0, 0, 4, 256), UIB(0, 0, 4, 256),
            UIB(5, 0, 2, 256),
        ),
        (Conv(1, 960),),
    ),
)  # fmt: skip
CONV_LARGE = Arch(
    24,
    (
        (FusedIB(4, 48),),
        (UIB(3, 5, 4, 96, 2), UIB(3, 3, 4, 96)),
        (
            UIB(3, 5, 4, 192, 2), *[UIB(3, 3, 4, 192)] * 3, UIB(3, 5, 4, 192), *[UIB(5, 3, 4, 192)] * 5,
            UIB(3, 0, 4, 192),
        ),
        (
            UIB(5, 5, 4, 512, 2), *[UIB(5, 5, 4, 512)] * 3, UIB(5, 0, 4, 512), UIB(5, 3, 4, 512),
            *[UIB(5, 0, 4, 512)] * 2, UIB(5, 3, 4, 512), UIB(5, 5, 4, 512), *[UIB(5, 0, 4, 512)] * 3,
        ),
        (Conv(1, 960),),
    ),
)  # fmt: skip
HYBRID_MEDIUM = Arch(
    32,
    (
        (FusedIB(4, 48),),
        (UIB(3, 5, 4, 80, 2), UIB(3, 3, 2, 80)),
        (
            UIB(3, 5, 6, 160, 2), UIB(0, 0, 2, 160), UIB(3, 3, 4, 160), UIB(3, 5, 4, 160),
            MobileMQA(4, 64, 160, 2), UIB(3, 3, 4, 160), MobileMQA(4, 64, 160, 2), UIB(3, 0, 4, 160),
            MobileMQA(4, 64, 160, 2), UIB(3, 3, 4, 160), MobileMQA(4, 64, 160, 2), UIB(3, 0, 4, 160),
        ),
        (
            UIB(5, 5, 6, 256, 2), UIB(5, 5, 4, 256), UIB(3, 5, 4, 256), UIB(3, 5, 4, 256), UIB(0, 0, 2, 256),
            UIB(3, 5, 2, 256), UIB(0, 0, 2, 256), UIB(0, 0, 4, 256), MobileMQA(4, 64, 256, 1), UIB(3, 0, 4, 256),
            MobileMQA(4, 64, 256, 1), UIB(5, 5, 4, 256), MobileMQA(4, 64, 256, 1), UIB(5, 0, 4, 256),
            MobileMQA(4, 64, 256, 1), UIB(5, 0, 4, 256),
        ),
        (Conv(1, 960),),
    ),
    layer_scale=True,
)  # fmt: skip
HYBRID_LARGE = Arch(
    24,
    (
        (FusedIB(4, 48),),
        (UIB(3, 5, 4, 96, 2), UIB(3, 3, 4, 96)),
        (
            UIB(3, 5, 4, 192, 2), *[UIB(3, 3, 4, 192)] * 3, UIB(3, 5, 4, 192), *[UIB(5, 3, 4, 192)] * 2,
            *(MobileMQA(8, 48, 192, 2), UIB(5, 3, 4, 192)) * 3, MobileMQA(8, 48, 192, 2), UIB(3, 0, 4, 192),
        ),
        (
            UIB(5, 5, 4, 512, 2), *[UIB(5, 5, 4, 512)] * 3, UIB(5, 0, 4, 512), UIB(5, 3, 4, 512),
            *[UIB(5, 0, 4, 512)] * 2, UIB(5, 3, 4, 512), UIB(5, 5, 4, 512),
            *(MobileMQA(8, 64, 512, 1), UIB(5, 0, 4, 512)) * 4,
        ),
        (Conv(1, 960),),
    ),
    activation="GELU",
    layer_scale=True,
)  # fmt: skip
ARCHS = {
    "conv_small": CONV_SMALL,
    "conv_small_035": CONV_SMALL._replace(width=0.35),
    "conv_small_050": CONV_SMALL._replace(width=0.5),
    "conv_medium": CONV_MEDIUM,
    "conv_large": CONV_LARGE,
    "hybrid_medium": HYBRID_MEDIUM,
    "hybrid_medium_075": HYBRID_MEDIUM._replace(width=0.75),
    "hybrid_large": HYBRID_LARGE,
    "hybrid_large_075": HYBRID_LARGE._replace(width=0.75),
}
"""Tables 10 to 14 of the paper; those with a width in their name are timm's."""
Name = Literal[
    "conv_small", "conv_small_035", "conv_small_050", "conv_medium", "conv_large", "hybrid_medium",
    "hybrid_medium_075", "hybrid_large", "hybrid_large_075",
]  # fmt: skip


class MobileNetV4(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    Args:
        arch: The published name.
        in_channels: Channels of the image.
        out_indices: The maps to return, of strides 2, 4, 8, 16 and 32: 0 is that of the stem, 4 that of the last two
            stages, with 960 channels.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0.
        norm_cfg: Type of the norms and its arguments.
        frozen_stages: -1 freezes nothing, 0 the stem, n also the first n stages, 5 in all.
        norm_eval: Keep batch norm in evaluation mode while training.
        with_cp: Activation checkpointing of each block: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.

    Raises:
        ConfigError: When an argument is out of range.
    """

    conformance: ClassVar = ({"arch": "conv_small_035"}, {"arch": "hybrid_medium_075", "out_indices": (0, 3, 4)})

    def __init__(
        self,
        arch: Name = "conv_small",
        in_channels: PositiveInt = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        drop_path_rate: Probability = 0.0,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        net = find_arch(arch, ARCHS)
        self.out_indices = check_out_indices(out_indices, 5)
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, len(net.stages))
        self.norm_eval, self.with_cp, self.pretrained = norm_eval, with_cp, pretrained
        self.conv_stem = nn.Conv2d(in_channels, net.stem, 3, stride=2, padding=1, bias=False)
        self.bn1 = build_norm(norm_cfg, net.stem)[1]
        layers: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": {"type": net.activation}}
        self.act = build_activation(layers["act_cfg"], inplace=True)
        self.blocks = nn.ModuleList()
        rates = iter(linear_drop_path_rates(drop_path_rate, sum(map(len, net.stages))))
        widths = [net.stem]
        for stage in net.stages:
            blocks: list[nn.Module] = []
            channels = widths[-1]
            for row in stage:
                out_channels = make_divisible(row.channels * net.width, 8)
                blocks.append(_block(row, channels, out_channels, next(rates), net.layer_scale, layers))
                channels = out_channels
            self.blocks.append(nn.Sequential(*blocks))
            widths.append(channels)
        self.channels = tuple([*widths[:4], widths[5]][i] for i in self.out_indices)
        self.strides = tuple(2 ** (i + 1) for i in self.out_indices)
        _init_weights(self)
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x = self.act(self.bn1(self.conv_stem(images)))
        maps = [x]
        for stage in self.blocks:
            for block in stage:  # type: ignore[attr-defined]
                x = checkpoint_block(block, x, enabled=self.with_cp)
            maps.append(x)
        del maps[4]  # the last two stages have one stride
        return tuple(maps[i] for i in self.out_indices)

    def frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.conv_stem, self.bn1, *self.blocks[: self.frozen_stages]]


def _block(
    row: Row, channels: int, out_channels: int, drop_path_rate: float, layer_scale: bool, layers: dict[str, Any]
) -> nn.Module:
    if isinstance(row, Conv):
        return ConvBnAct(channels, out_channels, row.kernel, row.stride, **layers)
    if isinstance(row, FusedIB):
        return FusedInvertedBottleneck(channels, make_divisible(channels * row.expansion, 8), out_channels, **layers)
    if isinstance(row, UIB):
        return UniversalInvertedBottleneck(
            channels,
            make_divisible(channels * row.expansion, 8),
            out_channels,
            kernels=(row.start, row.middle),
            stride=row.stride,
            drop_path_rate=drop_path_rate,
            layer_scale=layer_scale,
            **layers,
        )
    return MultiQueryAttentionBlock(
        channels, row.heads, row.head_channels, row.kv_stride, drop_path_rate, layer_scale, layers["norm_cfg"]
    )


class ConvBnAct(nn.Module):
    """Convolution, norm, activation: (N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, norm_cfg: LayerConfig, act_cfg: LayerConfig
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = build_norm(norm_cfg, out_channels)[1]
        self.act = build_activation(act_cfg, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn1(self.conv(x)))


class FusedInvertedBottleneck(nn.Module):
    """3x3 convolution of stride 2 to the hidden channels, then a projection: (N, C, H, W) -> (N, D, ~H / 2, ~W / 2)."""

    def __init__(
        self, in_channels: int, mid_channels: int, out_channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig
    ) -> None:
        super().__init__()
        self.conv_exp = nn.Conv2d(in_channels, mid_channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = build_norm(norm_cfg, mid_channels)[1]
        self.act = build_activation(act_cfg, inplace=True)
        self.conv_pwl = nn.Conv2d(mid_channels, out_channels, 1, bias=False)
        self.bn2 = build_norm(norm_cfg, out_channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv_exp(x)))
        return self.bn2(self.conv_pwl(x))


class UniversalInvertedBottleneck(nn.Module):
    """Depthwise, expand, depthwise, project, each depthwise convolution optional; figure 4 of the paper.

    (N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride). The residual connection is there where the
    shape stays.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        kernels: tuple[int, int],
        stride: int,
        drop_path_rate: float,
        layer_scale: bool,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        start, middle = kernels
        # The last depthwise convolution has the stride.
        self.dw_start = _depthwise(in_channels, start, 1 if middle else stride, norm_cfg, None)
        self.pw_exp = ConvModule(in_channels, mid_channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.dw_mid = _depthwise(mid_channels, middle, stride, norm_cfg, act_cfg)
        self.pw_proj = ConvModule(mid_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.layer_scale = LayerScale(out_channels, init_value=1e-5) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path_rate)
        self.has_skip = in_channels == out_channels and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        branch = self.pw_proj(self.dw_mid(self.pw_exp(self.dw_start(x))))
        branch = self.layer_scale(branch)
        return x + self.drop_path(branch) if self.has_skip else branch


class MultiQueryAttentionBlock(nn.Module):
    """Norm and `MobileAttention` with a residual connection: (N, channels, H, W) -> the same shape."""

    def __init__(
        self,
        channels: int,
        heads: int,
        head_channels: int,
        kv_stride: int,
        drop_path_rate: float,
        layer_scale: bool,
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.norm = build_norm(norm_cfg, channels)[1]
        self.attn = MobileAttention(channels, heads, head_channels, kv_stride, norm_cfg)
        self.layer_scale = LayerScale(channels, init_value=1e-5) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.layer_scale(self.attn(self.norm(x))))


class MobileAttention(nn.Module):
    """Attention whose heads share one key and value, at a coarser resolution; section 4 of the paper.

    (N, channels, H, W) -> the same shape.

    Args:
        channels: Channels of the map.
        heads: Heads.
        head_channels: Channels of a head, and of keys and values.
        kv_stride: Stride of keys and values.
        norm_cfg: Norm after the strided convolutions.
    """

    def __init__(self, channels: int, heads: int, head_channels: int, kv_stride: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.heads = heads
        self.query = Projection(channels, heads * head_channels)
        self.key = Projection(channels, head_channels, kv_stride, norm_cfg)
        self.value = Projection(channels, head_channels, kv_stride, norm_cfg)
        self.output = Projection(heads * head_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).unflatten(1, (self.heads, -1)).flatten(3).transpose(2, 3)  # (N, heads, H * W, C)
        key, value = (each(x).flatten(2).transpose(1, 2) for each in (self.key, self.value))  # (N, h * w, C)
        # As all heads have the same key and value, they are further queries of a single head.
        tokens = F.scaled_dot_product_attention(query.flatten(1, 2)[:, None], key[:, None], value[:, None])
        tokens = tokens[:, 0].unflatten(1, (self.heads, -1)).transpose(2, 3).flatten(1, 2)
        return self.output(tokens.unflatten(2, x.shape[2:]))


class Projection(nn.Module):
    """1x1 convolution, after a depthwise 3x3 convolution and a norm if there is a stride."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, norm_cfg: LayerConfig | None = None
    ) -> None:
        super().__init__()
        self.strided = stride > 1
        if self.strided:
            assert norm_cfg is not None
            self.down_conv = nn.Conv2d(
                in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False
            )
            self.norm = build_norm(norm_cfg, in_channels)[1]
        self.proj = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.strided:
            x = self.norm(self.down_conv(x))
        return self.proj(x)


def _depthwise(
    channels: int, kernel: int, stride: int, norm_cfg: LayerConfig, act_cfg: LayerConfig | None
) -> nn.Module:
    """Return a depthwise convolution with norm and activation; the identity for a kernel of 0."""
    if not kernel:
        return nn.Identity()
    return ConvModule(
        channels,
        channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=channels,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    )


def _init_weights(model: nn.Module) -> None:
    """He initialisation by the outputs of a convolution, in its group, as in EfficientNet."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)
