"""SCTNet: one branch of convolutions that learns the semantics of a transformer, for real-time segmentation.

    features = SCTNet()(torch.rand(2, 3, 512, 1024))  # 128, 64, 128, 256 channels at strides 8, 8, 16, 32

SCTNet: Single-Branch CNN with Transformer Semantic Information for Real-Time Segmentation, Xu et al., 2024
(https://arxiv.org/abs/2312.17071).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import ConvModule, DropPath, LayerConfig, build_norm, resize
from segplug_backbones.dual_resolution import DAPPM, BasicBlock
from segplug_backbones.pretrained import Pretrained

KEYS = 64
"""Learned keys of the convolutional attention, for all heads together."""
KERNEL_SIZE = 7


class ConvolutionalAttention(nn.Module):
    """Attention to learned keys that are strips of a convolution: (N, C, H, W) -> the same shape.

    Equations 4 to 6 of the paper. The similarities to the keys are normalised over the pixels, then over the keys of a
    head, and the keys, transposed, are the values.

    Args:
        channels: C.
        num_heads: Groups of keys.
        norm_cfg: Type of the norm.
    """

    def __init__(self, channels: int, num_heads: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = build_norm(norm_cfg, channels)[1]
        self.kv = nn.Parameter(torch.zeros(KEYS, channels, KERNEL_SIZE, 1))
        self.kv3 = nn.Parameter(torch.zeros(KEYS, channels, 1, KERNEL_SIZE))
        for keys in (self.kv, self.kv3):
            nn.init.trunc_normal_(keys, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self._attend(x, self.kv) + self._attend(x, self.kv3)

    def _attend(self, x: Tensor, keys: Tensor) -> Tensor:
        padding = (keys.shape[2] // 2, keys.shape[3] // 2)
        similar = F.conv2d(x, keys, padding=padding)
        weights = similar.flatten(2).softmax(2).unflatten(1, (self.num_heads, -1))
        weights = weights / (weights.sum(2, keepdim=True) + 1e-6)
        return F.conv2d(weights.flatten(1, 2).view_as(similar), keys.transpose(0, 1), padding=padding)


class ConvMLP(nn.Module):
    """A norm and two 3x3 convolutions: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.norm = build_norm({**norm_cfg, "eps": 1e-6}, channels)[1]
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(self.norm(x))))


class CFBlock(nn.Module):
    """`ConvolutionalAttention` and `ConvMLP`, each with a residual connection, section 3.3 of the paper.

    Args:
        channels: Channels of the map.
        num_heads: Groups of keys of the attention.
        drop_path_rate: Drop path rate of both branches.
        norm_cfg: Type of the norms.
    """

    def __init__(self, channels: int, num_heads: int, drop_path_rate: float, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.attn_l = ConvolutionalAttention(channels, num_heads, norm_cfg)
        self.mlp_l = ConvMLP(channels, norm_cfg)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn_l(x))
        return x + self.drop_path(self.mlp_l(x))


class SCTNet(Pretrained, Backbone):
    """Images (N, in_channels, H, W) to four maps at strides 8, 8, 16 and 32.

    The first is the one for the decode head; the others are for auxiliary heads and for distillation.

    Args:
        base_channels: Channels of the stem: 32 for SCTNet-S, 64 for SCTNet-B.
        spp_channels: Channels of the pyramid pooling: 64 for SCTNet-S, 128 for SCTNet-B.
        in_channels: Channels of the image.
        num_heads: Groups of keys of the convolutional attention; must divide 64.
        drop_path_rate: Drop path rate of the blocks with attention.
        norm_cfg: Type of the norms and its arguments.
        pretrained: Weights to load: a file, an address, or a known name.

    Raises:
        ConfigError: ``num_heads`` does not divide 64.
    """

    conformance: ClassVar = {"base_channels": 8, "spp_channels": 8}

    def __init__(
        self,
        base_channels: PositiveInt = 32,
        spp_channels: PositiveInt = 64,
        in_channels: PositiveInt = 3,
        num_heads: PositiveInt = 8,
        drop_path_rate: Probability = 0.1,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if KEYS % num_heads:
            raise ConfigError(Problem(f"{KEYS} keys are not divisible by {num_heads} heads", "num_heads"))
        self.pretrained, self.norm_cfg = pretrained, norm_cfg
        width = base_channels
        self.conv1 = nn.Sequential(self._strided(in_channels, width), self._strided(width, width))
        self.layer1 = self._stage(width, width, 1)
        self.layer2 = self._stage(width, 2 * width, 2)
        self.layer3 = self._stage(2 * width, 4 * width, 2)
        self.layer3_2 = CFBlock(4 * width, num_heads, drop_path_rate, norm_cfg)
        self.convdown4 = self._strided(4 * width, 8 * width)
        self.layer4 = CFBlock(8 * width, num_heads, drop_path_rate, norm_cfg)
        self.layer5 = CFBlock(8 * width, num_heads, drop_path_rate, norm_cfg)
        self.spp = DAPPM(8 * width, spp_channels, spp_channels, norm_cfg, {"type": "ReLU"}, bias=True)
        self.relu = nn.ReLU()
        self.channels = (2 * width + spp_channels, 2 * width, 4 * width, 8 * width)
        self.strides = (8, 8, 16, 32)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x = self.layer1(self.conv1(images))
        eighth = self.layer2(self.relu(x))
        sixteenth = self.layer3_2(self.relu(self.layer3(self.relu(eighth))))
        x = self.layer4(self.convdown4(sixteenth))
        last = self.layer5(self.relu(x))
        context = resize(self.spp(last), (eighth.shape[2], eighth.shape[3]))
        return torch.cat([eighth, context], 1), eighth, sixteenth, last

    def _strided(self, in_channels: int, channels: int) -> ConvModule:
        return ConvModule(in_channels, channels, 3, stride=2, padding=1, bias=True, norm_cfg=self.norm_cfg)

    def _stage(self, in_channels: int, channels: int, stride: int) -> nn.Sequential:
        """Return two blocks, the second of which ends without an activation."""
        layers: dict[str, Any] = {"norm_cfg": self.norm_cfg, "act_cfg": {"type": "ReLU"}, "bias": True}
        shortcut = None
        if in_channels != channels:
            shortcut = ConvModule(
                in_channels, channels, 1, stride=stride, bias=True, norm_cfg=self.norm_cfg, act_cfg=None
            )
        return nn.Sequential(
            BasicBlock(
                in_channels, channels, stride=stride, downsample=shortcut, act_cfg_out={"type": "ReLU"}, **layers
            ),
            BasicBlock(channels, channels, stride=1, downsample=None, act_cfg_out=None, **layers),
        )
