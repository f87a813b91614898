"""Models of transformers with a plain decode head: UPerNet, BEiT, DPT, DeepLabV3 on mobile backbones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import nn

from segkernel.interfaces.model import WeightFormat
from segplug_heads.heads.aspp_head import ASPPHead
from segplug_heads.heads.dpt_depth_head import DPTDepthHead
from segplug_heads.heads.dpt_head import DPTHead
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


class TransformersDPT(WeightFormat):
    """DPT for classes or depths, and Depth Anything; without DPT's auxiliary head."""

    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"decode_head.reassemble_blocks.projects.\1.conv."),
        (r"^neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"decode_head.reassemble_blocks.resize_layers.\1."),
        (r"^neck\.reassemble_stage\.readout_projects\.", "decode_head.reassemble_blocks.readout_projects."),
        (r"^neck\.convs\.(\d)\.", r"decode_head.convs.\1.conv."),
        (r"^neck\.fusion_stage\.layers\.(\d)\.projection\.", r"decode_head.fusion_blocks.\1.project.conv."),
        (
            r"^neck\.fusion_stage\.layers\.(\d)\.residual_layer(\d)\.convolution(\d)\.",
            r"decode_head.fusion_blocks.\1.res_conv_unit\2.conv\3.conv.",
        ),
        (
            r"^neck\.fusion_stage\.layers\.(\d)\.residual_layer(\d)\.batch_norm(\d)\.",
            r"decode_head.fusion_blocks.\1.res_conv_unit\2.conv\3.bn.",
        ),
        (r"^head\.projection\.", "decode_head.project.conv."),
        (r"^head\.conv", "decode_head.conv"),
    )
    classes: ClassVar[tuple[Rule, ...]] = (
        (r"^head\.head\.0\.", "decode_head.project.conv."),
        (r"^head\.head\.1\.", "decode_head.project.bn."),
        (r"^head\.head\.4\.", "decode_head.conv_seg."),
    )
    depths: ClassVar[tuple[Rule, ...]] = (
        (r"^head\.head\.0\.", "decode_head.conv1."),
        (r"^head\.head\.2\.", "decode_head.conv2."),
        (r"^head\.head\.4\.", "decode_head.conv3."),
    )
    # The first fusion has no finer map to add; transformers builds the layers for it nevertheless.
    unused: ClassVar = ("neck.fusion_stage.layers.0.residual_layer1.", "auxiliary_head.")

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        is_dpt = isinstance(getattr(module, "decode_head", None), DPTHead | DPTDepthHead)
        return is_dpt and "neck.convs.0.weight" in keys

    def convert(self, module: Any, weights: Weights) -> Weights:
        kept = {key: value for key, value in weights.items() if not key.startswith(self.unused)}
        inner, rest = split(kept, "dpt." if any(key.startswith("dpt.") for key in kept) else "backbone.")
        own = self.classes if isinstance(module.decode_head, DPTHead) else self.depths
        return backbone_weights(module, inner) | rename(rest, (*self.rules, *own))
