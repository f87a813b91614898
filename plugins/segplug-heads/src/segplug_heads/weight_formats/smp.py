"""Whole models of segmentation_models_pytorch: ``encoder.``, ``decoder.`` and ``segmentation_head.``.

The encoder's names are those of torchvision, timm or the authors, which the backbone's own formats convert. Weights
that the reference has but never uses are left out: stages beyond ``encoder_depth``, the attention of blocks without
skip connection, the classifiers of encoders.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from segkernel.interfaces.model import WeightFormat
from segkernel.nn import ConvModule
from segplug_heads.segmentors.encoder_decoder import EncoderDecoder
from segplug_heads.weight_formats.renaming import Rule, Weights, backbone_weights, rename, split

# Their convolution, norm and activation are a sequence, ours a `ConvModule`: CONV and NORM stand for its two names.
SKIP: tuple[Rule, ...] = (
    (r"\b(conv[12]|hl_conv\.[01])\.0\.", r"\1.CONV."),
    (r"\b(conv[12]|hl_conv\.[01])\.1\.", r"\1.NORM."),
    (r"\.attention\.(cSE|sSE)\.", r".\1."),
    (r"^center\.([01])\.0\.", lambda found: f"center.conv{int(found[1]) + 1}.CONV."),
    (r"^center\.([01])\.1\.", lambda found: f"center.conv{int(found[1]) + 1}.NORM."),
)
LINKNET: tuple[Rule, ...] = (
    (r"\.block\.([02])\.0\.", r".block.\1.CONV."),
    (r"\.block\.([02])\.1\.", r".block.\1.NORM."),
)
PAN: tuple[Rule, ...] = ((r"^gau(\d)\.", lambda found: f"gau.{int(found[1]) - 1}."),)
PANOPTIC_FPN: tuple[Rule, ...] = (
    (r"^p(\d)\.(skip_conv\.)?", lambda found: f"lateral_convs.{int(found[1]) - 2}."),
    # From the coarsest level on, with an upsampling after each convolution.
    (r"^seg_blocks\.(\d)\.block\.(\d)\.block\.0\.", lambda found: f"{_scale_head(found)}.CONV."),
    (r"^seg_blocks\.(\d)\.block\.(\d)\.block\.1\.", lambda found: f"{_scale_head(found)}.NORM."),
)
ASPP: tuple[Rule, ...] = (
    (r"\bconvs\.0\.0\.", "convs.0.CONV."),
    (r"\bconvs\.0\.1\.", "convs.0.NORM."),
    (r"\bconvs\.4\.1\.", "pool.1.CONV."),
    (r"\bconvs\.4\.2\.", "pool.1.NORM."),
    (r"\bproject\.0\.", "project.CONV."),
    (r"\bproject\.1\.", "project.NORM."),
)
DILATED: tuple[Rule, ...] = (
    (r"\bconvs\.([123])\.0\.", r"convs.\1.CONV."),
    (r"\bconvs\.([123])\.1\.", r"convs.\1.NORM."),
)
SEPARABLE: tuple[Rule, ...] = (
    (r"\bconvs\.([123])\.1\.", r"convs.\1.1.NORM."),
    (r"\bconvs\.([123])\.0\.1\.", r"convs.\1.1.CONV."),
    (r"\bconvs\.([123])\.0\.0\.", r"convs.\1.0."),
)
DEEPLABV3: tuple[Rule, ...] = (
    (r"^([012])\.", lambda found: ("aspp.", "conv.", "bn.")[int(found[1])]),  # the names of older versions
    (r"^conv\.", "conv.CONV."),
    (r"^bn\.", "conv.NORM."),
    *ASPP,
)
DEEPLABV3PLUS: tuple[Rule, ...] = (
    (r"^aspp\.0\.", "aspp."),
    (r"^aspp\.1\.0\.", "aspp_conv.0."),
    (r"^aspp\.1\.1\.", "aspp_conv.1.CONV."),
    (r"^aspp\.2\.", "aspp_conv.1.NORM."),
    (r"^block1\.0\.", "low_level_conv.CONV."),
    (r"^block1\.1\.", "low_level_conv.NORM."),
    (r"^block2\.0\.0\.", "fusion_conv.0."),
    (r"^block2\.0\.1\.", "fusion_conv.1.CONV."),
    (r"^block2\.1\.", "fusion_conv.1.NORM."),
    *ASPP,
)
PSPNET: tuple[Rule, ...] = (
    (r"^psp\.blocks\.(\d)\.pool\.1\.0\.", r"psp.\1.1.CONV."),
    (r"^psp\.blocks\.(\d)\.pool\.1\.1\.", r"psp.\1.1.NORM."),
    (r"^conv\.0\.", "conv.CONV."),
    (r"^conv\.1\.", "conv.NORM."),
)
UPERNET: tuple[Rule, ...] = (
    (r"^psp\.blocks\.(\d)\.1\.", r"psp_modules.\1.1."),
    (r"^psp\.out_conv\.", "bottleneck."),
    (r"^fpn_lateral_blocks\.(\d)\.conv_norm_relu\.", r"lateral_convs.\1."),
    (r"^fpn_conv_blocks\.(\d)\.", r"fpn_convs.\1."),
    (r"^fusion_block\.", "fpn_bottleneck."),
    (r"^(psp_modules\.\d\.1|bottleneck|lateral_convs\.\d|fpn_convs\.\d|fpn_bottleneck)\.0\.", r"\1.CONV."),
    (r"^(psp_modules\.\d\.1|bottleneck|lateral_convs\.\d|fpn_convs\.\d|fpn_bottleneck)\.1\.", r"\1.NORM."),
)
SEGFORMER: tuple[Rule, ...] = (
    (r"^mlp_stage\.(\d)\.linear\.", r"convs.\1.CONV."),
    (r"^fuse_stage\.0\.", "fusion_conv.CONV."),
    (r"^fuse_stage\.1\.", "fusion_conv.NORM."),
)
DPT: tuple[Rule, ...] = (
    (r"^projection_blocks\.(\d)\.project\.", r"reassemble_blocks.readout_projects.\1."),
    (r"^reassemble_blocks\.(\d)\.project_to_out_channel\.", r"reassemble_blocks.projects.\1.CONV."),
    (r"^reassemble_blocks\.(\d)\.upsample\.", r"reassemble_blocks.resize_layers.\1."),
    (r"^reassemble_blocks\.(\d)\.project_to_feature_dim\.", r"convs.\1.CONV."),
    (r"\.residual_conv_block(\d)\.conv_(\d)\.", r".res_conv_unit\1.conv\2.CONV."),
    (r"\.residual_conv_block(\d)\.batch_norm_(\d)\.", r".res_conv_unit\1.conv\2.NORM."),
    (r"^(fusion_blocks\.\d)\.project\.", r"\1.project.CONV."),
)
RULES: dict[str, tuple[Rule, ...]] = {
    "UNetHead": SKIP,
    "UNetPlusPlusHead": SKIP,
    "MAnetHead": SKIP,
    "LinknetHead": LINKNET,
    "PANHead": PAN,
    "PanopticFPNHead": PANOPTIC_FPN,
    "DeepLabV3Head": DEEPLABV3,
    "DeepLabV3PlusHead": DEEPLABV3PLUS,
    "PSPNetHead": PSPNET,
    "UPerHead": UPERNET,
    "SegformerHead": SEGFORMER,
    "DPTHead": DPT,
}
"""Renaming of the decoder, by our head."""
CLASSIFIER: tuple[Rule, ...] = (
    (r"^head\.0\.", "project.CONV."),  # DPT's has a convolution before the last
    (r"^head\.1\.", "project.NORM."),
    (r"^(head\.4|0)\.", "conv_seg."),
)
UNUSED = re.compile(r"^(center|blocks\.\w+\.attention1)\.")
"""Weights of the decoder that the reference may have without using them."""


class SMP(WeightFormat):
    """The names of segmentation_models_pytorch, for an `EncoderDecoder` whose head is one of `RULES`."""

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        known = isinstance(module, EncoderDecoder) and type(module.decode_head).__name__ in RULES
        return known and all(any(key.startswith(part) for key in keys) for part in ("encoder.", "decoder."))

    def convert(self, module: Any, weights: Weights) -> Weights:
        encoder, others = split(weights, "encoder.")
        decoder, others = split(others, "decoder.")
        classifier, others = split(others, "segmentation_head.")
        image_classes, others = split(others, "classification_head.")
        timm = "timm_model." if hasattr(module.backbone, "timm_model") else ""
        encoder = {f"{timm}{key.removeprefix('model.')}": value for key, value in encoder.items()}
        trunk = backbone_weights(module, encoder)
        own = module.state_dict().keys()
        converted = {key: value for key, value in trunk.items() if key in own}
        for key, value in self._head(module.decode_head, decoder, classifier).items():
            if key in own or not UNUSED.match(key.removeprefix("decode_head.")):
                converted[key] = value
        for key, value in rename(image_classes, [(r"^\d\.", "auxiliary_head.conv_seg.")]).items():
            converted[key] = value[:, :, None, None] if value.ndim == 2 else value
        return {**others, **converted}

    def _head(self, head: nn.Module, decoder: Weights, classifier: Weights) -> Weights:
        kind = type(head).__name__
        if kind in ("UPerHead", "SegformerHead"):
            decoder = _finest_first(decoder)
        rules = RULES[kind]
        if kind.startswith("DeepLab"):
            rules += SEPARABLE if any(".convs.1.0.1." in key for key in decoder) else DILATED
        renamed = rename(decoder, rules) | rename(classifier, CLASSIFIER)
        norms = {norm for part in head.modules() if isinstance(part, ConvModule) and (norm := part.norm_name)}
        names = ((r"\.CONV\.", ".conv."), (r"\.NORM\.", f".{next(iter(norms), 'bn')}."))
        found = {f"decode_head.{key}": value for key, value in rename(renamed, names).items()}
        return {key: _as_convolution(value) if ".convs." in key else value for key, value in found.items()}


def _scale_head(found: re.Match[str]) -> str:
    level = 3 - int(found[1])
    return f"scale_heads.{level}.{int(found[2]) * (2 if level else 1)}"


def _finest_first(decoder: Weights) -> Weights:
    """Return the weights with lists of levels from the finest on; the reference has them from the coarsest on."""
    lists = r"^(mlp_stage|fpn_lateral_blocks|fpn_conv_blocks)\.(\d)\."
    numbers = [int(found[2]) for key in decoder if (found := re.match(lists, key))]
    last = max(numbers, default=0)
    ordered = rename(decoder, [(lists, lambda found: f"{found[1]}.{last - int(found[2])}.")])
    if (name := "fuse_stage.0.weight") in ordered:
        ordered[name] = torch.cat(ordered[name].chunk(last + 1, 1)[::-1], 1)
    return ordered


def _as_convolution(weight: torch.Tensor) -> torch.Tensor:
    """Return a linear layer's weight (out, in) as that of a 1x1 convolution."""
    return weight[:, :, None, None] if weight.ndim == 2 else weight
