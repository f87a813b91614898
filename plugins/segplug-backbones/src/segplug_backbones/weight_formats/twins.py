"""Twins as published by their authors, timm and mmpretrain."""

from __future__ import annotations

import re
from typing import ClassVar

import torch
from torch import nn

from segplug_backbones.twins import PCPVT
from segplug_backbones.weight_formats.renaming import Renaming, Weights


class OfficialTwins(Renaming):
    """PCPVT and SVT: global attention projects queries separately from keys and values, window attention jointly.

    A classifier has one norm, after the last stage; it becomes the norm of that stage in a backbone with such norms.
    """

    mark = r"^pos_block\.0\.proj\.0\.weight$"
    rules: ClassVar = (
        (r"^patch_embeds\.(\d)\.proj\.", r"patch_embeds.\1.projection."),
        (r"^pos_block\.(\d)\.proj\.0\.", r"position_encodings.\1.proj."),
        (r"^blocks\.", "layers."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, PCPVT)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        renamed = super().convert(module, weights)
        last = len(module.layers) - 1  # type: ignore[arg-type]
        converted = {}
        for key, value in renamed.items():
            layer, _, inner = key.partition(".attn.")
            is_global = f"{layer}.attn.kv.weight" in renamed
            if is_global and inner.startswith("kv."):
                continue
            if is_global and inner.startswith("q."):
                value = torch.cat([value, renamed[f"{layer}.attn.kv.{inner.removeprefix('q.')}"]])
                key = f"{layer}.attn.attn.in_proj_{inner.removeprefix('q.')}"
            elif is_global and inner.startswith("proj."):
                key = f"{layer}.attn.attn.out_{inner}"
            converted[re.sub(r"^norm\.", f"norm_list.{last}.", key)] = value
        return converted


class MMPretrainTwins(Renaming):
    """mmpretrain's names, which differ from MMSegmentation's."""

    mark = r"^stages\.0\.0\.attn\."
    rules: ClassVar = ((r"^stages\.", "layers."), (r"^norm_after_stage(\d)\.", r"norm_list.\1."))

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, PCPVT)
