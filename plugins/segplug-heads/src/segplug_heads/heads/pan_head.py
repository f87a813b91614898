"""PAN: a pyramid of pooled attention on the coarsest map, and global attention on each finer one.

Pyramid Attention Network for Semantic Segmentation, Li et al., 2018 (https://arxiv.org/abs/1805.10180).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import AdaptiveAvgPool2d, ConvModule, LayerConfigs, is_tracing, resize
from segplug_heads.heads.pyramid_head import InterpolateMode, KernelSize, PyramidHead, UpsampledArguments


class PANHead(PyramidHead):
    """Feature maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        channels: Channels of the decoder.
        interpolate_mode: Interpolation of coarser maps.
        classifier_kernel_size: Kernel size of the last convolution.
    """

    conformance: ClassVar = {"in_channels": [8, 16, 24], "in_index": [0, 1, 2], "num_classes": 4, "channels": 8}

    def __init__(
        self,
        channels: PositiveInt = 32,
        interpolate_mode: InterpolateMode = "bilinear",
        classifier_kernel_size: KernelSize = 3,
        **kwargs: Unpack[UpsampledArguments],
    ) -> None:
        super().__init__(channels, classifier_kernel_size=classifier_kernel_size, **kwargs)
        *finer, coarsest = self.in_channels
        self.interpolate_mode = interpolate_mode
        self.fpa = FeaturePyramidAttention(coarsest, channels, **self.layer_cfgs)
        self.gau = nn.ModuleList(GlobalAttentionUpsample(width, channels, **self.layer_cfgs) for width in finer)

    def forward_feature(self, features: Features) -> Tensor:
        *finer, coarsest = self.select(features)
        out = self.fpa(coarsest)
        for attend, x in zip(reversed(self.gau), reversed(finer), strict=True):
            enlarged = resize(out, x.shape[2:], mode=self.interpolate_mode, align_corners=True)
            out = enlarged + attend(x, out)
        return out


class FeaturePyramidAttention(nn.Module):
    """(N, in_channels, h, w) -> (N, channels, h, w), weighted pixel by pixel by maps of three coarser scales."""

    def __init__(self, in_channels: int, channels: int, **layers: Unpack[LayerConfigs]) -> None:
        super().__init__()
        self.branch1 = nn.Sequential(AdaptiveAvgPool2d(1), ConvModule(in_channels, channels, 1, bias=True, **layers))
        self.mid = nn.Sequential(ConvModule(in_channels, channels, 1, bias=True, **layers))
        self.down1 = nn.Sequential(HalvingMaxPool2d(), _conv(in_channels, 7, layers))
        self.down2 = nn.Sequential(HalvingMaxPool2d(), _conv(1, 5, layers))
        self.down3 = nn.Sequential(HalvingMaxPool2d(), _conv(1, 3, layers), _conv(1, 3, layers))
        self.conv2 = _conv(1, 5, layers)
        self.conv1 = _conv(1, 7, layers)

    def forward(self, x: Tensor) -> Tensor:
        half = self.down1(x)
        quarter = self.down2(half)
        attention = self.conv2(quarter) + _like(self.down3(quarter), quarter)
        attention = self.conv1(half) + _like(attention, half)
        return _like(attention, x) * self.mid(x) + self.branch1(x)


class GlobalAttentionUpsample(nn.Module):
    """A finer map (N, in_channels, H, W) -> (N, channels, H, W), channels weighted by a coarser (N, channels, h, w)."""

    def __init__(self, in_channels: int, channels: int, **layers: Unpack[LayerConfigs]) -> None:
        super().__init__()
        plain: LayerConfigs = {**layers, "act_cfg": None}
        self.conv1 = nn.Sequential(AdaptiveAvgPool2d(1), ConvModule(channels, channels, 1, bias=True, **plain))
        self.conv2 = ConvModule(in_channels, channels, 3, padding=1, bias=True, **layers)

    def forward(self, finer: Tensor, coarser: Tensor) -> Tensor:
        return self.conv2(finer) * self.conv1(coarser).sigmoid()


class HalvingMaxPool2d(nn.Module):
    """Max pooling, (N, C, H, W) -> (N, C, H // 2, W // 2); a single row or column is kept, not in exports."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2 if is_tracing() else (min(2, x.shape[2]), min(2, x.shape[3])))


def _conv(in_channels: int, kernel_size: int, layers: LayerConfigs) -> ConvModule:
    return ConvModule(in_channels, 1, kernel_size, padding=kernel_size // 2, bias=True, **layers)


def _like(x: Tensor, other: Tensor) -> Tensor:
    return resize(x, other.shape[2:], align_corners=True)
