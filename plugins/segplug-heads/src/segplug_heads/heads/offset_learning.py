"""Offset learning: class representations and pixel features move towards each other before they are compared.

    decode_head: {type: SegformerOffsetLearningHead, ...}  # with the arguments of SegformerHead

Revisiting Efficient Semantic Segmentation: Learning Offsets for Better Spatial and Class Feature Alignment,
Zhang et al., 2025 (https://arxiv.org/abs/2508.08811). It takes the place of the last convolution of any head.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Required, Unpack

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.nn import DecodeHead, MultiLevelHeadArguments, nchw_to_nlc, trunc_normal_init
from segplug_heads.heads.ham_head import HamArguments, LightHamHead
from segplug_heads.heads.pyramid_head import PyramidArguments
from segplug_heads.heads.segformer_head import SegformerHead


class OffsetLearning(nn.Module):
    """Features (N, channels, H, W) to logits (N, num_classes, H, W), figure 3 of the paper.

    Args:
        channels: Channels of the features and the class representations.
        num_classes: Channels of the logits.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_repr = nn.Parameter(torch.empty(1, num_classes, channels))
        self.cls_offset_proj = nn.Linear(channels, channels, bias=False)
        self.feat_offset_proj = nn.Linear(channels, channels, bias=False)
        self.mask_norm = nn.LayerNorm(num_classes)
        nn.init.trunc_normal_(self.cls_repr, std=0.02)
        trunc_normal_init(self.cls_offset_proj)
        trunc_normal_init(self.feat_offset_proj)

    def forward(self, x: Tensor) -> Tensor:
        pixels = nchw_to_nlc(x)  # (N, L, C)
        classes = self.cls_repr.expand(x.shape[0], -1, -1)  # (N, K, C)
        attention = pixels @ classes.transpose(1, 2)  # (N, L, K), for both offsets
        class_offset = self.cls_offset_proj(attention.softmax(1).transpose(1, 2) @ pixels)
        feature_offset = self.feat_offset_proj(attention.softmax(2) @ classes)
        logits = self.mask_norm((pixels + feature_offset) @ (classes + class_offset).transpose(1, 2))
        return logits.transpose(1, 2).unflatten(2, x.shape[2:])


class OffsetLearningClassifier(DecodeHead):
    """A mixin: `OffsetLearning` takes the place of the last convolution and its dropout."""

    offset_learning: OffsetLearning

    def replace_classifier(self) -> None:
        """Build the layer; the constructor of a head calls it at its end."""
        del self.conv_seg
        self.offset_learning = OffsetLearning(self.channels, self.out_channels)

    def cls_seg(self, x: Tensor) -> Tensor:
        return self.offset_learning(x)


class SegformerArguments(PyramidArguments, total=False):
    """All arguments of `SegformerHead`."""

    channels: Required[PositiveInt]
    size_index: NonNegativeInt | None
    interpolate_mode: Literal["bilinear", "bicubic", "nearest"]
    linear_projection: bool


class SegformerOffsetLearningHead(OffsetLearningClassifier, SegformerHead):
    """`SegformerHead` with offset learning.

    Args:
        **kwargs: Arguments of `SegformerHead`, but ``dropout_ratio``.
    """

    fixed_arguments = frozenset({"input_transform", "dropout_ratio"})

    def __init__(self, **kwargs: Unpack[SegformerArguments]) -> None:
        kwargs["dropout_ratio"] = 0.0
        super().__init__(**kwargs)
        self.replace_classifier()


class LightHamArguments(MultiLevelHeadArguments, total=False):
    """All arguments of `LightHamHead`."""

    ham_channels: PositiveInt
    ham_kwargs: HamArguments | None


class LightHamOffsetLearningHead(OffsetLearningClassifier, LightHamHead):
    """`LightHamHead`, the head of SegNeXt, with offset learning.

    Args:
        **kwargs: Arguments of `LightHamHead`, but ``dropout_ratio``.
    """

    fixed_arguments = frozenset({"input_transform", "dropout_ratio"})

    def __init__(self, **kwargs: Unpack[LightHamArguments]) -> None:
        kwargs["dropout_ratio"] = 0.0
        super().__init__(**kwargs)
        self.replace_classifier()
