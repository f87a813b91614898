"""The neck of SETR-MLA: layers of a transformer added up from the last to the first.

Zheng et al., Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers, 2021
(https://arxiv.org/abs/2012.15840).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import ConvModule, LayerConfig, build_norm


class MultiLevelAggregation(nn.Module):
    """Maps of one size, first layer first -> as many maps (N, out_channels, h, w), last layer first."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, norm_cfg: LayerConfig | None, act_cfg: LayerConfig | None
    ) -> None:
        super().__init__()
        layers = {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.channel_proj = nn.ModuleList(ConvModule(width, out_channels, 1, **layers) for width in in_channels)
        self.feat_extract = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, **layers) for _ in in_channels
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = [project(x) for project, x in zip(self.channel_proj, features, strict=True)]
        sums = accumulate(reversed(maps))
        return tuple(extract(x) for extract, x in zip(self.feat_extract, sums, strict=True))


class MLANeck(Neck):
    """Maps of one size, first layer first -> as many maps (N, out_channels, h, w), last layer first.

    Args:
        in_channels: Of each map.
        out_channels: Of the outputs.
        norm_layer: Norm of the maps as they come.
        norm_cfg: Norm of the convolutions; none for None.
        act_cfg: Activation of the convolutions; none for None.

    Raises:
        ConfigError: In ``forward``, when there are not as many maps as ``in_channels``.
    """

    conformance: ClassVar = {"in_channels": [8, 16, 8, 8], "out_channels": 8}
    conformance_inputs: ClassVar = {"features": [(8, 16), (16, 16), (8, 16), (8, 16)]}

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        norm_layer: Mapping[str, Any] = {"type": "LN", "eps": 1e-6, "requires_grad": True},
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.ModuleList(build_norm(norm_layer, width)[1] for width in in_channels)
        self.mla = MultiLevelAggregation(in_channels, out_channels, norm_cfg, act_cfg)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        if len(features) != len(self.norm):
            raise ConfigError(Problem(f"{len(features)} feature maps for {len(self.norm)}", "in_channels"))
        return self.mla([norm(x.movedim(1, -1)).movedim(-1, 1) for norm, x in zip(self.norm, features)])
