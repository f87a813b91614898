"""The neck of SETR-MLA: multi-level feature aggregation, maps of transformer layers summed from the last to the first.

Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers, Zheng et al., 2021
(https://arxiv.org/abs/2012.15840).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import ConvModule, LayerConfig, build_norm


class MultiLevelAggregation(nn.Module):
    """Maps of one size, first layer first -> as many maps (N, out_channels, h, w), last layer first.

    Args:
        in_channels: Channels of each map.
        out_channels: Channels of the outputs.
        norm_cfg: Type of the norms; None for no norm.
        act_cfg: Type of the activations; None for no activation.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, norm_cfg: LayerConfig | None, act_cfg: LayerConfig | None
    ) -> None:
        super().__init__()
        self.channel_proj = nn.ModuleList(
            ConvModule(width, out_channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg) for width in in_channels
        )
        self.feat_extract = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg)
            for _ in in_channels
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = [project(x) for project, x in zip(self.channel_proj, features, strict=True)]
        # Top-down: feat_extract[0] is for the last layer, although channel_proj[0] is for the first.
        sums = accumulate(reversed(maps))
        return tuple(extract(x) for extract, x in zip(self.feat_extract, sums, strict=True))


class MLANeck(Neck):
    """Maps of one size, first layer first -> as many maps (N, out_channels, h, w), last layer first.

    Args:
        in_channels: Channels of each map.
        out_channels: Channels of the outputs.
        norm_layer: Norm of the inputs.
        norm_cfg: Norm of the convolutions; None for no norm.
        act_cfg: Activation of the convolutions; None for no activation.

    Raises:
        ConfigError: In ``forward``, there are not as many maps as ``in_channels``.
    """

    conformance: ClassVar = {"in_channels": [8, 16, 8, 8], "out_channels": 8}
    conformance_inputs: ClassVar = {"features": [(8, 16), (16, 16), (8, 16), (8, 16)]}

    def __init__(
        self,
        in_channels: Sequence[PositiveInt],
        out_channels: PositiveInt,
        norm_layer: LayerConfig = {"type": "LN", "eps": 1e-6, "requires_grad": True},  # noqa: B006  never changed
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.ModuleList(build_norm(norm_layer, width)[1] for width in in_channels)
        self.mla = MultiLevelAggregation(in_channels, out_channels, norm_cfg, act_cfg)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        if len(features) != len(self.norm):
            raise ConfigError(Problem(f"{len(features)} feature maps for {len(self.norm)} in_channels", "in_channels"))
        return self.mla([norm(x.movedim(1, -1)).movedim(-1, 1) for norm, x in zip(self.norm, features)])
