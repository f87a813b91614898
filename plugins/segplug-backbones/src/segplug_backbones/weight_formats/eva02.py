"""EVA-02 of its authors and of timm."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import nn

from segplug_backbones.eva02 import EVA02
from segplug_backbones.weight_formats.dino import to_plain_vit
from segplug_backbones.weight_formats.renaming import Renaming, Weights

CONSTANTS = re.compile(r"(^|\.)rope\.freqs_(cos|sin)$")


class OfficialEVA02(Renaming):
    """The authors' names, and timm's: queries, keys and values in one layer in the small models, in three otherwise."""

    mark = r"^(visual\.)?blocks\.0\.(attn\.q_proj|mlp\.(w12|fc1))\.weight$"
    rules: ClassVar = (
        (r"^visual\.", ""),  # of EVA-CLIP
        (r"^fc_norm\.", "norm."),
        (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
        (r"\.mlp\.norm\.", ".mlp.ffn_ln."),
        (r"\.mlp\.fc1_g\.", ".mlp.w1."),
        (r"\.mlp\.fc1_x\.", ".mlp.w2."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, EVA02)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        assert isinstance(module, EVA02)
        kept = {key: value for key, value in super().convert(module, weights).items() if not CONSTANTS.search(key)}
        return to_plain_vit(module, kept)
