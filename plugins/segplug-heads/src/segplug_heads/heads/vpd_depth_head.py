"""The depth head of VPD: the maps of a diffusion model's U-Net, aggregated at one size and upsampled to a depth map.

Unleashing Text-to-Image Diffusion Models for Visual Perception, Zhao et al., 2023 (https://arxiv.org/abs/2303.02153).
The diffusion model is not part of this package; the head works on any backbone of four maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import NonNegativeInt, Positive, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Features, Head, Loss
from segkernel.nn import StridedLogits, resize, sum_by_name
from segkernel.sample import Targets
from segplug_heads.losses.silog_loss import SiLogLoss
from segplug_heads.outputs import PixelValues

NORM_GROUPS = 16


class VPDDepthDecoder(nn.Module):
    """(N, in_channels, h, w) -> (N, out_channels, s h, s w), s being 4 * 2 ** len(num_deconv_filters).

    Args:
        in_channels: Channels of the feature map.
        out_channels: Output channels.
        num_deconv_filters: Output channels of each transposed convolution, which doubles the size.
    """

    def __init__(self, in_channels: int, out_channels: int, num_deconv_filters: Sequence[int]) -> None:
        super().__init__()
        self.deconv_layers = nn.Sequential()
        for width_in, width_out in pairwise((in_channels, *num_deconv_filters)):
            self.deconv_layers.extend(
                [
                    nn.ConvTranspose2d(width_in, width_out, 2, stride=2, bias=False),
                    nn.BatchNorm2d(width_out),
                    nn.ReLU(inplace=True),
                ]
            )
        self.conv_layers = nn.Sequential(
            nn.Conv2d(num_deconv_filters[-1], out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        # The authors interpolate the last 4x in two bilinear steps of 2x, whose result differs from that of one step.
        x = self.conv_layers(self.deconv_layers(x))
        for _ in range(2):
            x = resize(x, (2 * x.shape[2], 2 * x.shape[3]))
        return x


class VPDDepthHead(Head):
    """Four feature maps, each half the size of the one before -> depths (N, 1, 8 h, 8 w).

    (h, w) is the size of the first map; ``fmap_border`` makes the depth map smaller. A depth is a number from 0 to
    ``max_depth``, in the unit of the annotations: ``targets["depth"]``, (N, H, W), 0 where nothing was measured.

    Args:
        max_depth: The largest depth that can be predicted; 10 m is the range of NYU Depth v2.
        in_channels: Channels of the maps, finest first; the first is a multiple of 16.
        embed_dim: Channels of the last convolutions.
        feature_dim: Channels of the aggregated map; must be 8 times ``embed_dim`` and a multiple of 16.
        num_deconv_layers: Number of transposed convolutions, each of which doubles the size.
        num_deconv_filters: Output channels of each transposed convolution.
        fmap_border: Rows and columns that are cropped from the bottom and the right of the aggregated map, where the
            image was padded; one number is for both.
        align_corners: As in `segkernel.nn.resize`, for resizing depths to the annotations.
        loss_decode: One loss or several; None is `SiLogLoss`. Losses of one name are added.

    Raises:
        ConfigError: The channels do not fit together.
    """

    conformance: ClassVar = {
        "in_channels": [16, 16, 16, 16],
        "embed_dim": 4,
        "feature_dim": 32,
        "num_deconv_filters": [8, 8, 8],
    }
    conformance_exceptions: ClassVar = {"classes": "depths have no classes"}
    conformance_inputs: ClassVar = {"features": [(16, 2), (16, 4), (16, 8), (16, 16)]}

    def __init__(
        self,
        max_depth: Positive = 10.0,
        in_channels: Sequence[PositiveInt] = (320, 640, 1280, 1280),
        embed_dim: PositiveInt = 192,
        feature_dim: PositiveInt = 1536,
        num_deconv_layers: PositiveInt = 3,
        num_deconv_filters: Sequence[PositiveInt] = (32, 32, 32),
        fmap_border: NonNegativeInt | tuple[NonNegativeInt, NonNegativeInt] = 0,
        align_corners: bool = False,
        loss_decode: Loss | Sequence[Loss] | None = None,
    ) -> None:
        super().__init__()
        _check(in_channels, embed_dim, feature_dim, num_deconv_layers, num_deconv_filters)
        self.max_depth, self.align_corners = max_depth, align_corners
        self.fmap_border = (fmap_border, fmap_border) if isinstance(fmap_border, int) else fmap_border
        self.output = PixelValues(align_corners=align_corners)
        several = loss_decode if isinstance(loss_decode, Sequence) else [loss_decode or SiLogLoss()]
        self.loss_decode = nn.ModuleList(several)
        first, second = in_channels[:2]
        self.conv1 = nn.Sequential(
            nn.Conv2d(first, first, 3, stride=2, padding=1),
            nn.GroupNorm(NORM_GROUPS, first),
            nn.ReLU(),
            nn.Conv2d(first, first, 3, stride=2, padding=1),
        )
        self.conv2 = nn.Conv2d(second, second, 3, stride=2, padding=1)
        self.conv_aggregation = nn.Sequential(
            nn.Conv2d(sum(in_channels), feature_dim, 1), nn.GroupNorm(NORM_GROUPS, feature_dim), nn.ReLU()
        )
        self.decoder = VPDDepthDecoder(feature_dim, embed_dim, num_deconv_filters)
        self.depth_pred_layer = nn.Sequential(
            nn.Conv2d(embed_dim, embed_dim, 3, padding=1), nn.ReLU(), nn.Conv2d(embed_dim, 1, 3, padding=1)
        )

    def forward(self, features: Features) -> Tensor:
        first, second, third, fourth = features
        # The authors call `F.interpolate` without a mode, which is nearest; the weights were trained with it.
        fourth = resize(fourth, third.shape[2:], mode="nearest")
        x = self.conv_aggregation(torch.cat([self.conv1(first), self.conv2(second), third, fourth], 1))
        bottom, right = self.fmap_border
        x = self.decoder(x[:, :, : x.shape[2] - bottom, : x.shape[3] - right])
        return self.depth_pred_layer(x).sigmoid() * self.max_depth  # the authors regress a fraction of the range

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return self.single_pass(features, targets)[1]

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        depths, truth = self(features), targets["depth"]
        strided = StridedLogits(depths, truth.shape[-2:], self.align_corners)
        return depths, sum_by_name((loss.name, strided.loss(loss, truth)) for loss in self._losses())

    def _losses(self) -> list[Loss]:
        return [loss for loss in self.loss_decode if isinstance(loss, Loss)]


def _check(in_channels: Sequence[int], embed_dim: int, feature_dim: int, layers: int, filters: Sequence[int]) -> None:
    if len(in_channels) != 4 or in_channels[0] % NORM_GROUPS:
        message = f"{list(in_channels)} must be four, the first a multiple of {NORM_GROUPS}"
        raise ConfigError(Problem(message, "in_channels"))
    if feature_dim != 8 * embed_dim or feature_dim % NORM_GROUPS:
        message = f"{feature_dim} is not 8 times the embed_dim {embed_dim}, or not a multiple of {NORM_GROUPS}"
        raise ConfigError(Problem(message, "feature_dim"))
    if len(filters) != layers:
        raise ConfigError(Problem(f"{list(filters)} needs {layers} numbers, one for each layer", "num_deconv_filters"))
