"""UPerNet: a feature pyramid network with pyramid pooling on its coarsest level.

Unified Perceptual Parsing for Scene Understanding, Xiao et al., 2018 (https://arxiv.org/abs/1807.10221).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import Concat, ConvModule, LayerConfig, LayerConfigs, PyramidPooling, build_norm, resize
from segplug_heads.heads.pyramid_head import PyramidArguments, PyramidHead


class UPerHead(PyramidHead):
    """Feature maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        pool_scales: Side in bins of each grid that the coarsest map is pooled to.
        feature_norm: Layer norm over the channels of each map first, as segmentation_models_pytorch has it.
        bottleneck_norm_cfg: Norm after the pooled scales are joined; ``norm_cfg`` for None.
        channels: Channels of all levels.
    """

    conformance: ClassVar = {"in_channels": [8, 16, 24], "in_index": [0, 1, 2], "channels": 8, "num_classes": 4}

    def __init__(
        self,
        pool_scales: Sequence[PositiveInt] = (1, 2, 3, 6),
        feature_norm: bool = False,
        bottleneck_norm_cfg: LayerConfig | None = None,
        *,
        channels: PositiveInt,
        **kwargs: Unpack[PyramidArguments],
    ) -> None:
        super().__init__(channels, **kwargs)
        *finer, coarsest = self.in_channels
        self.feature_norms: nn.ModuleList | None = None
        if feature_norm:
            norm_cfg = {"type": "LN2d", "eps": 1e-6}
            self.feature_norms = nn.ModuleList(build_norm(norm_cfg, width)[1] for width in self.in_channels)
        self.psp_modules = PyramidPooling(
            pool_scales, coarsest, self.channels, align_corners=self.align_corners, **self.layer_cfgs
        )
        self.concat_pooled, self.concat_levels = Concat(), Concat()
        pooled = coarsest + len(pool_scales) * self.channels
        layers: LayerConfigs = {**self.layer_cfgs, "norm_cfg": bottleneck_norm_cfg or self.norm_cfg}
        self.bottleneck = ConvModule(pooled, self.channels, 3, padding=1, **layers)
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, self.channels, 1, inplace=False, **self.layer_cfgs) for width in finer
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(self.channels, self.channels, 3, padding=1, inplace=False, **self.layer_cfgs) for _ in finer
        )
        levels = len(self.in_channels) * self.channels
        self.fpn_bottleneck = ConvModule(levels, self.channels, 3, padding=1, **self.layer_cfgs)

    def forward_feature(self, features: Features) -> Tensor:
        maps = self.select(features)
        if self.feature_norms is not None:
            maps = [norm(x) for norm, x in zip(self.feature_norms, maps, strict=True)]
        *finer, coarsest = maps
        top = self.bottleneck(self.concat_pooled([coarsest, *self.psp_modules(coarsest)]))
        levels = [*(conv(x) for conv, x in zip(self.lateral_convs, finer, strict=True)), top]
        for i in reversed(range(1, len(levels))):
            levels[i - 1] = levels[i - 1] + self._resize(levels[i], levels[i - 1])
        # The coarsest level has been filtered by the bottleneck already.
        levels = [*(conv(x) for conv, x in zip(self.fpn_convs, levels[:-1], strict=True)), top]
        finest = levels[0]
        return self.fpn_bottleneck(self.concat_levels(x if x is finest else self._resize(x, finest) for x in levels))

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], align_corners=self.align_corners)
