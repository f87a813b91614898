"""ICNet's cascade feature fusion: a coarse map is upsampled and added to the next finer one, twice.

ICNet for Real-Time Semantic Segmentation on High-Resolution Images, Zhao et al., 2018
(https://arxiv.org/abs/1704.08545).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import ConvModule, LayerConfig, LayerConfigs, resize


class CascadeFeatureFusion(nn.Module):
    """A coarse (N, low_channels, h', w') and a fine map (N, high_channels, h, w) -> two maps (N, out_channels, h, w).

    The first is the fused map, the second the upsampled coarse one, for an auxiliary head.

    Args:
        low_channels: Channels of the low-resolution map.
        high_channels: Channels of the high-resolution map.
        out_channels: Channels of the outputs.
        layers: Types of the layers.
        align_corners: As in `segkernel.nn.resize`.
    """

    def __init__(
        self, low_channels: int, high_channels: int, out_channels: int, layers: LayerConfigs, align_corners: bool
    ) -> None:
        super().__init__()
        # Dilated by the factor of the upsampling before it, so that it combines neighbours of the coarse map.
        self.conv_low = ConvModule(low_channels, out_channels, 3, padding=2, dilation=2, **layers)
        self.conv_high = ConvModule(high_channels, out_channels, 1, **layers)
        self.align_corners = align_corners

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        # In the paper the auxiliary head takes the upsampled map before the convolution; the reference
        # implementation, and so the published weights, take it after.
        low = self.conv_low(resize(low, high.shape[2:], align_corners=self.align_corners))
        return F.relu(low + self.conv_high(high)), low


class ICNeck(Neck):
    """Three maps, finest first -> three maps of ``out_channels``: two for auxiliary heads, and the fused one.

    The first has the size of the second input, the others that of the first.

    Args:
        in_channels: Channels of the three maps.
        out_channels: Channels of the outputs.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
        align_corners: As in `segkernel.nn.resize`.

    Raises:
        ConfigError: There are not three ``in_channels``.
    """

    def __init__(
        self,
        in_channels: Sequence[PositiveInt] = (64, 256, 256),
        out_channels: PositiveInt = 128,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig = {"type": "BN"},  # noqa: B006  never changed
        act_cfg: LayerConfig = {"type": "ReLU"},  # noqa: B006  never changed
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if len(in_channels) != 3:
            raise ConfigError(Problem(f"{list(in_channels)} must have 3 numbers, one for each map", "in_channels"))
        fine, middle, coarse = in_channels
        layers: LayerConfigs = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.in_channels = tuple(in_channels)
        self.cff_24 = CascadeFeatureFusion(coarse, middle, out_channels, layers, align_corners)
        self.cff_12 = CascadeFeatureFusion(out_channels, fine, out_channels, layers, align_corners)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        fine, middle, coarse = features
        fused, aux_24 = self.cff_24(coarse, middle)
        fused, aux_12 = self.cff_12(fused, fine)
        return aux_24, aux_12, fused
