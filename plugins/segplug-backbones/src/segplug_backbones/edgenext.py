"""EdgeNeXt: convolutional blocks, and split depthwise transpose attention at the end of stages 2 to 4.

    features = EdgeNeXt("small")(torch.rand(2, 3, 512, 512))  # 48, 96, 160, 304 channels at strides 4, 8, 16, 32

EdgeNeXt: Efficiently Amalgamated CNN-Transformer Architecture for Mobile Vision Applications, Maaz et al., 2022
(https://arxiv.org/abs/2206.10589). State-dict keys are timm's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.nn import DropPath, build_norm, linear_drop_path_rates, nchw_to_nlc, nlc_to_nchw, trunc_normal_init
from segplug_backbones.staged import StagedArguments, StagedBackbone, find_arch


@dataclass(frozen=True)
class EdgeNeXtArch:
    """A network: channels and blocks of the stages, and heads of the attention."""

    channels: Sequence[PositiveInt]
    depths: Sequence[PositiveInt] = (3, 3, 9, 3)
    heads: PositiveInt = 8


ARCHS = {
    "xx_small": EdgeNeXtArch((24, 48, 88, 168), (2, 2, 6, 2), heads=4),
    "x_small": EdgeNeXtArch((32, 64, 100, 192), heads=4),
    "small": EdgeNeXtArch((48, 96, 160, 304)),
    "base": EdgeNeXtArch((80, 160, 288, 584)),
}
"""Table 1 of the paper, and the base network of its repository."""
KERNELS = (3, 5, 7, 9)
"""Side of the depthwise kernels of each stage."""
SCALES = (2, 2, 3, 4)
"""Groups of channels of the attention's convolutions in each stage."""
NORM = {"type": "LN", "eps": 1e-6}


class EdgeNeXt(StagedBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded down.

    Args:
        arch: ``xx_small``, ``x_small``, ``small`` or ``base``, or the values of an `EdgeNeXtArch`.
        in_channels: Channels of the image.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0.
        layer_scale_init_value: Initial layer scale.
        norm_cfg: Type of the norms of (N, H, W, C) and its arguments.
        **kwargs: See `StagedBackbone`; the maps have strides 4, 8, 16 and 32.
    """

    conformance: ClassVar = ({"arch": {"channels": (8, 12, 14, 16), "depths": (1, 2, 1, 2), "heads": 2}},)

    def __init__(
        self,
        arch: Literal["xx_small", "x_small", "small", "base"] | EdgeNeXtArch = "small",
        in_channels: PositiveInt = 3,
        drop_path_rate: Probability = 0.0,
        layer_scale_init_value: NonNegative = 1e-6,
        norm_cfg: Mapping[str, Any] = NORM,
        **kwargs: Unpack[StagedArguments],
    ) -> None:
        net = find_arch(arch, ARCHS)
        channels, depths, heads = net.channels, net.depths, net.heads
        map_norm = {**norm_cfg, "type": "LN2d"} if norm_cfg["type"] == "LN" else norm_cfg
        stem = nn.Sequential(nn.Conv2d(in_channels, channels[0], 4, stride=4), build_norm(map_norm, channels[0])[1])
        rates = iter(linear_drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, depth in enumerate(depths):
            downsample: nn.Module = nn.Identity()
            if i:
                downsample = nn.Sequential(
                    build_norm(map_norm, channels[i - 1])[1], nn.Conv2d(channels[i - 1], channels[i], 2, stride=2)
                )
            blocks: list[nn.Module] = []
            for j in range(depth):
                common: dict[str, Any] = {
                    "drop_path_rate": next(rates),
                    "layer_scale_init_value": layer_scale_init_value,
                    "norm_cfg": norm_cfg,
                }
                if i and j == depth - 1:
                    block: nn.Module = SDTABlock(channels[i], SCALES[i], heads, with_positions=i == 1, **common)
                else:
                    block = ConvBlock(channels[i], KERNELS[i], **common)
                blocks.append(block)
            stages.append(Stage(downsample, blocks))
        super().__init__(stem, stages, channels, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                trunc_normal_init(module)


class Stage(nn.Module):
    """Blocks after a strided convolution."""

    def __init__(self, downsample: nn.Module, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.downsample, self.blocks = downsample, nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvBlock(nn.Module):
    """Depthwise convolution, norm and feed-forward part with a residual connection: (N, C, H, W) -> the same shape."""

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        drop_path_rate: float,
        layer_scale_init_value: float,
        norm_cfg: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = build_norm(norm_cfg, channels)[1]
        self.mlp = FeedForward(channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale_init_value))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_dw(x).permute(0, 2, 3, 1)
        y = self.gamma * self.mlp(self.norm(y))
        return x + self.drop_path(y.permute(0, 3, 1, 2))


class SDTABlock(nn.Module):
    """Split depthwise transpose attention, figure 2 (d) of the paper: (N, C, H, W) -> the same shape.

    Groups of channels pass a hierarchy of depthwise convolutions, then all channels attend to each other.

    Args:
        channels: C.
        scales: Groups of channels.
        heads: Heads of the attention.
        with_positions: Whether position encodings are added before the attention.
        drop_path_rate: Drop path rate of both residual branches.
        layer_scale_init_value: Initial layer scale of both.
        norm_cfg: Type of the norms.
    """

    def __init__(
        self,
        channels: int,
        scales: int,
        heads: int,
        *,
        with_positions: bool,
        drop_path_rate: float,
        layer_scale_init_value: float,
        norm_cfg: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.width = math.ceil(channels / scales)
        self.convs = nn.ModuleList(
            nn.Conv2d(self.width, self.width, 3, padding=1, groups=self.width) for _ in range(scales - 1)
        )
        self.pos_embd = PositionEncoding(channels) if with_positions else None
        self.norm_xca = build_norm(norm_cfg, channels)[1]
        self.gamma_xca = nn.Parameter(torch.full((channels,), layer_scale_init_value))
        self.xca = CrossCovarianceAttention(channels, heads)
        self.norm = build_norm(norm_cfg, channels)[1]
        self.mlp = FeedForward(channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale_init_value))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        *groups, last = x.split(self.width, dim=1)
        outputs: list[Tensor] = []
        for conv, group in zip(self.convs, groups):
            # Each group also gets the result of the group before, and so has a larger receptive field.
            outputs.append(conv(outputs[-1] + group if outputs else group))
        y = torch.cat([*outputs, last], 1)
        if self.pos_embd is not None:
            y = y + self.pos_embd(y)
        size = (y.shape[2], y.shape[3])
        tokens = nchw_to_nlc(y)
        tokens = tokens + self.drop_path(self.gamma_xca * self.xca(self.norm_xca(tokens)))
        tokens = self.gamma * self.mlp(self.norm(tokens))
        return x + self.drop_path(nlc_to_nchw(tokens, size))


class CrossCovarianceAttention(nn.Module):
    """Attention between channels, of cost linear in the pixels: (N, L, C) -> the same shape.

    XCiT: Cross-Covariance Image Transformers, El-Nouby et al., 2021 (https://arxiv.org/abs/2106.09681).
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 4, 1)  # (N, heads, c, L)
        attention = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(2, 3) * self.temperature
        return self.proj((attention.softmax(-1) @ value).flatten(1, 2).transpose(1, 2))


class PositionEncoding(nn.Module):
    """Sines and cosines of the row and column, projected: a map (N, C, H, W) -> (1, channels, H, W)."""

    channels: ClassVar = 32
    """Channels of the encoding of one axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token_projection = nn.Conv2d(2 * self.channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows = self._encode(height, x)[:, :, None].expand(-1, -1, width)
        columns = self._encode(width, x)[:, None].expand(-1, height, -1)
        return self.token_projection(torch.cat([rows, columns])[None])

    def _encode(self, length: int, like: Tensor) -> Tensor:
        """Return (channels, length): the angle 2 pi for the last place, in frequencies of a geometric series."""
        places = torch.arange(1, length + 1, dtype=torch.float32, device=like.device)
        angles = places / (length + 1e-6) * (2 * math.pi)
        frequencies = 10000 ** (torch.arange(0, self.channels, 2, device=like.device) / self.channels)
        angles = angles / frequencies[:, None]
        return torch.stack([angles.sin(), angles.cos()], 1).flatten(0, 1).to(like.dtype)


class FeedForward(nn.Module):
    """Two linear layers with four times the channels between them: (..., C) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
