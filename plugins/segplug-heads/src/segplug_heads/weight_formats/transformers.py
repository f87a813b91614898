"""Models of transformers with a plain decode head: UPerNet, BEiT, DeepLabV3 on mobile backbones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import nn

from segkernel.interfaces.model import WeightFormat
from segplug_heads.heads.aspp_head import ASPPHead
from segplug_heads.heads.uper_head import UPerHead
from segplug_heads.weight_formats.renaming import Rule, Weights, backbone_weights, rename, split

CONV_MODULE: tuple[Rule, ...] = (
    (r"\.convolution\.", ".conv."),
    (r"\.(batch_norm|normalization)\.", ".bn."),
    (r"\.classifier\.(conv\.)?", ".conv_seg."),
)
"""Parts of a `ConvModule`, and the last layer of a head."""


class TransformersUPerNet(WeightFormat):
    """UPerNet around any backbone, and BEiT with its pyramid."""

    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^(fpn\.)?fpn1\.(0|conv_transpose1)\.", "neck.upsample_4x.0."),
        (r"^(fpn\.)?fpn1\.(1|normalization)\.", "neck.upsample_4x.1."),
        (r"^(fpn\.)?fpn1\.(3|conv_transpose2)\.", "neck.upsample_4x.3."),
        (r"^(fpn\.)?fpn2\.(0\.)?", "neck.upsample_2x.0."),
        (r"^decode_head\.psp_modules\.blocks\.(\d)\.conv\.", r"decode_head.psp_modules.\1.1."),
        (r"^decode_head\.psp_bottleneck\.", "decode_head.bottleneck."),
        *CONV_MODULE,
    )

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        is_upernet = isinstance(getattr(module, "decode_head", None), UPerHead)
        return is_upernet and "decode_head.classifier.weight" in keys

    def convert(self, module: Any, weights: Weights) -> Weights:
        inner, rest = split(weights, "beit." if "beit.embeddings.cls_token" in weights else "backbone.")
        return backbone_weights(module, inner) | rename(rest, self.rules)


class TransformersDeepLab(WeightFormat):
    """DeepLabV3 around MobileViT and MobileViTV2, and the smaller head around MobileNetV2."""

    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^segmentation_head\.", "decode_head."),
        (r"\.aspp\.convs\.4\.conv_1x1\.", ".image_pool.1."),
        (r"\.conv_pool\.", ".image_pool.1."),
        (r"\.aspp\.convs\.", ".aspp_modules."),
        (r"\.conv_aspp\.", ".aspp_modules.0."),
        (r"\.(aspp\.project|conv_projection)\.", ".bottleneck."),
        *CONV_MODULE,
        (r"\.conv_seg\.conv\.", ".conv_seg."),
    )
    fusion = "decode_head.bottleneck.conv.weight"

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        has_aspp = isinstance(getattr(module, "decode_head", None), ASPPHead)
        return has_aspp and "segmentation_head.classifier.convolution.weight" in keys

    def convert(self, module: Any, weights: Weights) -> Weights:
        head, inner = split(weights, "segmentation_head.")
        converted = rename({f"segmentation_head.{key}": value for key, value in head.items()}, self.rules)
        if "aspp.project.convolution.weight" in head:  # the pooled image is the last branch; here it is the first
            width = converted[self.fusion].shape[0]
            *branches, pooled = converted[self.fusion].split(width, 1)
            converted[self.fusion] = torch.cat([pooled, *branches], 1)
        return backbone_weights(module, inner) | converted
