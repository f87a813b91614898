"""EfficientViT's segmentation models as their authors publish them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from torch import nn

from segkernel.interfaces.model import WeightFormat
from segplug_heads.heads.efficientvit_seg_head import EfficientViTSegHead
from segplug_heads.weight_formats.renaming import Weights, backbone_weights, rename, split


class OfficialEfficientViTSeg(WeightFormat):
    """The authors' names; they list the levels coarsest first."""

    rules: ClassVar = (
        (r"\.norm\.", ".bn."),
        (r"^middle\.op_list\.(\d+)\.main\.", r"middle.\1."),
    )

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        head = getattr(module, "decode_head", None)
        return isinstance(head, EfficientViTSegHead) and any("head.input_ops.0." in key for key in keys)

    def convert(self, module: Any, weights: Weights) -> Weights:
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
        backbone, weights = split(weights, "backbone.")
        head, rest = split(weights, "head.")
        levels = len(module.decode_head.inputs)
        final = "1" if any(key.startswith("output_ops.0.op_list.1.") for key in head) else "0"
        rules = (
            *((rf"^input_ops\.{i}\.(op_list\.0\.)?", f"inputs.{levels - 1 - i}.") for i in range(levels)),
            (rf"^output_ops\.0\.op_list\.{final}\.conv\.", "conv_seg."),
            (r"^output_ops\.0\.op_list\.0\.", "output_conv."),
            *self.rules,
        )
        renamed = {f"decode_head.{key}": value for key, value in rename(head, rules).items()}
        return backbone_weights(module, backbone) | renamed | rest
