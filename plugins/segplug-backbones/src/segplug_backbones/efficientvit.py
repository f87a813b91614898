"""EfficientViT: multi-scale linear attention beside mobile inverted bottlenecks, for high resolutions.

    features = EfficientViT("b1")(torch.rand(2, 3, 512, 512))  # 32, 64, 128, 256 channels at strides 4, 8, 16, 32

EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction, Cai et al., 2022
(https://arxiv.org/abs/2205.14756). State-dict keys are timm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import NonNegative, PositiveInt
from segkernel.nn import LayerConfig, build_activation, build_norm
from segplug_backbones.staged import StagedArguments, StagedBackbone, find_arch


@dataclass(frozen=True)
class EfficientViTArch:
    """A network.

    Args:
        channels: Channels of the stem and the stages.
        depths: Blocks of the stem and the stages; some have one more.
        head_channels: Channels of a head of the attention.
        large: The L series, with fused bottlenecks where the map is large, and GELU.
    """

    channels: Sequence[PositiveInt]
    depths: Sequence[PositiveInt]
    head_channels: PositiveInt
    large: bool = False


ARCHS = {
    "b0": EfficientViTArch((8, 16, 32, 64, 128), (1, 2, 2, 2, 2), 16),
    "b1": EfficientViTArch((16, 32, 64, 128, 256), (1, 2, 3, 3, 4), 16),
    "b2": EfficientViTArch((24, 48, 96, 192, 384), (1, 3, 4, 4, 6), 32),
    "b3": EfficientViTArch((32, 64, 128, 256, 512), (1, 4, 6, 6, 9), 32),
    "l0": EfficientViTArch((32, 64, 128, 256, 512), (1, 1, 1, 4, 4), 32, large=True),
    "l1": EfficientViTArch((32, 64, 128, 256, 512), (1, 1, 1, 6, 6), 32, large=True),
    "l2": EfficientViTArch((32, 64, 128, 256, 512), (1, 2, 2, 8, 8), 32, large=True),
    "l3": EfficientViTArch((64, 128, 256, 512, 1024), (1, 2, 2, 8, 8), 32, large=True),
}
"""Published networks; b0 to b3 are in the paper's table of architectures."""
EXPANSIONS = {False: ((4, 4), (4, 4), (4, 4), (4, 4)), True: ((16, 4), (16, 4), (16, 4), (24, 6))}
"""Ratio of hidden channels of the first and of the further blocks of each stage, of the B and the L series."""


class EfficientViT(StagedBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    Args:
        arch: ``b0`` to ``b3``, ``l0`` to ``l3``, or the values of an `EfficientViTArch`.
        in_channels: Channels of the image.
        norm_cfg: Type of the norms and its arguments; None is batch norm with the ``eps`` of the published weights,
            1e-5 in ``b0`` to ``b3`` and 1e-7 in ``l0`` to ``l3``.
        attention_eps: Added to the divisor of the attention: 1e-5 in timm, 1e-15 in the authors' models.
        **kwargs: See `StagedBackbone`; the maps have strides 4, 8, 16 and 32.
    """

    conformance: ClassVar = (
        {"arch": {"channels": (4, 4, 8, 8, 8), "depths": (1, 2, 1, 1, 1), "head_channels": 4}},
        {"arch": {"channels": (4, 4, 4, 4, 8), "depths": (1, 1, 1, 1, 1), "head_channels": 4, "large": True}},
    )

    def __init__(
        self,
        arch: Literal["b0", "b1", "b2", "b3", "l0", "l1", "l2", "l3"] | EfficientViTArch = "b0",
        in_channels: PositiveInt = 3,
        norm_cfg: LayerConfig | None = None,
        attention_eps: NonNegative = 1e-5,
        **kwargs: Unpack[StagedArguments],
    ) -> None:
        net = find_arch(arch, ARCHS)
        if norm_cfg is None:
            norm_cfg = {"type": "BN", "eps": 1e-7 if net.large else 1e-5}
        act_cfg = {"type": "GELU", "approximate": "tanh"} if net.large else {"type": "HSwish"}
        layers: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
        stages = []
        for i, (first, further) in enumerate(EXPANSIONS[net.large]):
            channels, depth = net.channels[i + 1], net.depths[i + 1]
            # Without norms inside where the map is small: they cost time and bring nothing there.
            block = FusedMBConv if net.large and i < 2 else MBConv
            inside: dict[str, Any] = {} if i < 2 else {"fewer_norms": True}
            blocks: list[nn.Module] = [Unit(block(net.channels[i], channels, first, stride=2, **inside, **layers))]
            for _ in range(depth if net.large or i >= 2 else depth - 1):
                if i == 3 or (i == 2 and not net.large):
                    blocks.append(AttentionBlock(channels, net.head_channels, further, attention_eps, **layers))
                else:
                    blocks.append(Unit(block(channels, channels, further, **inside, **layers), residual=True))
            stages.append(Stage(blocks))
        stem = Stem(in_channels, net.channels[0], net.depths[0], ConvBlock if net.large else DSConv, layers)
        super().__init__(stem, stages, net.channels[1:], **kwargs)


class Stem(nn.Module):
    """Strided convolution and residual blocks: (N, C, H, W) -> (N, channels, ~H / 2, ~W / 2)."""

    def __init__(
        self, in_channels: int, channels: int, depth: int, block: type[ConvBlock | DSConv], layers: dict[str, Any]
    ) -> None:
        super().__init__()
        self.in_conv = ConvNormAct(in_channels, channels, 3, stride=2, **layers)
        self.depth = depth
        for i in range(depth):
            self.add_module(f"res{i}", Unit(block(channels, **layers), residual=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        for i in range(self.depth):
            x = getattr(self, f"res{i}")(x)
        return x


class Stage(nn.Module):
    """A sequence of blocks."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Unit(nn.Module):
    """A block, with a residual connection or without."""

    def __init__(self, main: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.main, self.residual = main, residual

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x) if self.residual else self.main(x)


class AttentionBlock(nn.Module):
    """Linear attention for the context and an inverted bottleneck for local information, figure 5 of the paper."""

    def __init__(
        self,
        channels: int,
        head_channels: int,
        expansion: int,
        attention_eps: float,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.context_module = Unit(LiteMLA(channels, head_channels, attention_eps, norm_cfg), residual=True)
        local = MBConv(channels, channels, expansion, fewer_norms=True, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.local_module = Unit(local, residual=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.local_module(self.context_module(x))


class LiteMLA(nn.Module):
    """Multi-scale ReLU linear attention, section 3.1 of the paper: (N, channels, H, W) -> the same shape.

    Args:
        channels: Channels of the map.
        head_channels: Channels of a head.
        eps: Added to the divisor.
        norm_cfg: Norm after the projection.
    """

    def __init__(self, channels: int, head_channels: int, eps: float, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.head_channels, self.eps = head_channels, eps
        self.qkv = ConvNormAct(channels, 3 * channels, 1)
        # Tokens of 5x5 pixels beside those of one: each head of queries, keys and values for itself.
        depthwise = nn.Conv2d(3 * channels, 3 * channels, 5, padding=2, groups=3 * channels, bias=False)
        grouped = nn.Conv2d(3 * channels, 3 * channels, 1, groups=3 * channels // head_channels, bias=False)
        self.aggreg = nn.ModuleList([nn.Sequential(depthwise, grouped)])
        self.proj = ConvNormAct(2 * channels, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.qkv(x)
        tokens = torch.cat([pixels, *(aggregate(pixels) for aggregate in self.aggreg)], 1)
        tokens = tokens.flatten(2).unflatten(1, (-1, 3 * self.head_channels))  # (N, heads, 3 * head_channels, H * W)
        return self.proj(self._attend(tokens).flatten(1, 2).unflatten(2, x.shape[2:]))

    def _attend(self, tokens: Tensor) -> Tensor:
        if torch.is_autocast_enabled(tokens.device.type):  # sums over all pixels overflow in half precision
            with torch.autocast(tokens.device.type, enabled=False):
                return self._attend(tokens.float())
        query, key, value = tokens.chunk(3, dim=2)
        value = F.pad(value, (0, 0, 0, 1), value=1.0)  # the last row becomes the divisor
        weighted = value @ key.relu().transpose(2, 3) @ query.relu()
        return weighted[:, :, :-1] / (weighted[:, :, -1:] + self.eps)


class MBConv(nn.Module):
    """Inverted bottleneck: pointwise, depthwise, pointwise: (N, C, H, W) -> (N, D, ~H / stride, ~W / stride)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        expansion: int,
        stride: int = 1,
        *,
        fewer_norms: bool = False,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        inside = None if fewer_norms else norm_cfg
        self.inverted_conv = ConvNormAct(in_channels, hidden, 1, bias=fewer_norms, norm_cfg=inside, act_cfg=act_cfg)
        self.depth_conv = ConvNormAct(
            hidden, hidden, 3, stride=stride, groups=hidden, bias=fewer_norms, norm_cfg=inside, act_cfg=act_cfg
        )
        self.point_conv = ConvNormAct(hidden, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.depth_conv(self.inverted_conv(x)))


class FusedMBConv(nn.Module):
    """Inverted bottleneck whose first convolutions are one: (N, C, H, W) -> (N, D, ~H / stride, ~W / stride)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        expansion: int,
        stride: int = 1,
        *,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.spatial_conv = ConvNormAct(in_channels, hidden, 3, stride=stride, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.point_conv = ConvNormAct(hidden, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.spatial_conv(x))


class DSConv(nn.Module):
    """Depthwise separable convolution: (N, channels, H, W) -> the same shape."""

    def __init__(self, channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        super().__init__()
        self.depth_conv = ConvNormAct(channels, channels, 3, groups=channels, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.point_conv = ConvNormAct(channels, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.depth_conv(x))


class ConvBlock(nn.Module):
    """Two 3x3 convolutions: (N, channels, H, W) -> the same shape."""

    def __init__(self, channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.conv2 = ConvNormAct(channels, channels, 3, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class ConvNormAct(nn.Module):
    """Convolution, norm and activation with the authors' names, ``conv`` and ``norm``."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, channels, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=bias
        )
        self.norm = nn.Identity() if norm_cfg is None else build_norm(norm_cfg, channels)[1]
        self.act = nn.Identity() if act_cfg is None else build_activation(act_cfg, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))
