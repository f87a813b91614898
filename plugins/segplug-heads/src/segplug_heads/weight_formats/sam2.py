"""SAM 2's image encoder and neck, as its authors and transformers publish them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from segkernel.interfaces.model import WeightFormat
from segplug_heads.necks.sam2_fpn import SAM2FPN
from segplug_heads.weight_formats.renaming import backbone_weights, rename, split


class SAM2Encoder(WeightFormat):
    """``image_encoder.trunk`` and ``.neck`` of the authors, ``vision_encoder.backbone`` and ``.neck`` of transformers.

    The mask decoder, the prompt encoder and the memory of SAM 2 are left out.
    """

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        # Without a prefix, transformers' names of the neck are ours.
        ends = ("_encoder.neck.convs.0.weight", "neck.convs.0.conv.weight")
        return isinstance(getattr(module, "neck", None), SAM2FPN) and any(key.endswith(ends) for key in keys)

    def convert(self, module: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = rename(weights, [(r"^(image_encoder|vision_encoder)\.", ""), (r"^(neck\.convs\.\d)\.conv\.", r"\1.")])
        neck, others = split(weights, "neck.")
        return {**backbone_weights(module, others), **{f"neck.{key}": value for key, value in neck.items()}}
