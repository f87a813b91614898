"""Semantic FPN with its own feature pyramid, so that it takes a backbone's maps directly.

Panoptic Feature Pyramid Networks, Kirillov et al., 2019 (https://arxiv.org/abs/1901.02446). `FPNHead` is the part after
a neck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import resize
from segplug_heads.heads.fpn_head import upsampling_convs
from segplug_heads.heads.pyramid_head import InterpolateMode, PyramidArguments, PyramidHead


class PanopticFPNHead(PyramidHead):
    """Feature maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        pyramid_channels: Channels of the pyramid.
        segmentation_channels: Channels of each level after its convolutions.
        merge_policy: ``add`` the levels or concatenate (``cat``) them, coarsest first.
        interpolate_mode: Interpolation of the pyramid; the levels are enlarged bilinearly.
        feature_strides: Stride of each map in pixels of the image; by default each has half the size of the one before.
    """

    fixed_arguments = frozenset({"input_transform", "channels"})
    conformance: ClassVar = {
        "in_channels": [8, 16, 24], "in_index": [0, 1, 2], "num_classes": 4, "pyramid_channels": 8,
        "segmentation_channels": 4,
    }  # fmt: skip

    def __init__(
        self,
        pyramid_channels: PositiveInt = 256,
        segmentation_channels: PositiveInt = 128,
        merge_policy: Literal["add", "cat"] = "add",
        interpolate_mode: InterpolateMode = "nearest",
        **kwargs: Unpack[PyramidArguments],
    ) -> None:
        levels = len(kwargs["in_channels"])
        super().__init__(segmentation_channels * (levels if merge_policy == "cat" else 1), **kwargs)
        self.merge_policy, self.interpolate_mode = merge_policy, interpolate_mode
        self.lateral_convs = nn.ModuleList(nn.Conv2d(width, pyramid_channels, 1) for width in self.in_channels)
        strides = self.feature_strides or [2**i for i in range(levels)]
        self.scale_heads = nn.ModuleList(
            upsampling_convs(
                pyramid_channels, segmentation_channels, stride // strides[0], align_corners=True, **self.layer_cfgs
            )
            for stride in strides
        )

    @classmethod
    def select_maps(cls, strides: Sequence[int]) -> list[int]:
        chosen = [i for i, stride in enumerate(strides) if stride > 1][-4:]
        if len(chosen) < 4:
            message = f"needs four maps, the backbone's have strides {list(strides)}"
            raise ConfigError(Problem(message, "backbone", hint="choose them by its out_indices"))
        return chosen

    def forward_feature(self, features: Features) -> Tensor:
        levels = [conv(x) for conv, x in zip(self.lateral_convs, self.select(features), strict=True)]
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + resize(levels[i + 1], levels[i].shape[2:], mode=self.interpolate_mode)
        size = levels[0].shape[2:]
        enlarged = [head(x) for head, x in zip(self.scale_heads, levels, strict=True)]
        enlarged = [resize(x, size, align_corners=True) for x in enlarged[::-1]]
        return torch.cat(enlarged, 1) if self.merge_policy == "cat" else torch.stack(enlarged).sum(0)
