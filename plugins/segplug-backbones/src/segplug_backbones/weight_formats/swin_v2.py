"""Swin Transformer V2 as its authors, timm and transformers publish it."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import nn

from segplug_backbones.swin_v2 import SwinTransformerV2
from segplug_backbones.weight_formats.renaming import Renaming, Weights, join_qkv
from segplug_backbones.weight_formats.swin import unfolded

CONSTANTS = ("relative_position_index", "relative_coords_table", "attn_mask")
"""What the authors' files hold of the size of a window."""


class OfficialSwinV2(Renaming):
    """The authors' names, and timm's, which merges at the start of a stage, not at its end."""

    mark = r"^layers[._]0\.blocks\.0\.attn\.cpb_mlp\.0\.weight$"
    rules: ClassVar = (
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"^norm\.", "norm3."),
        (r"^layers[._]", "stages."),
        (r"\.attn\.", ".attn.w_msa."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, SwinTransformerV2)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        return merged_first(super().convert(module, weights))


class TransformersSwinV2(Renaming):
    """The names of transformers: queries, keys and values apart, merging at the end of a stage."""

    mark = r"(^|\.)layers\.0\.blocks\.0\.attention\.self\.continuous_position_bias_mlp\.0\.weight$"
    rules: ClassVar = (
        (r"^swinv2\.", ""),
        (r"^embeddings\.patch_embeddings\.", "patch_embed."),
        (r"^embeddings\.norm\.", "patch_embed.norm."),
        (r"^layernorm\.", "norm3."),
        (r"^(encoder\.)?layers\.", "stages."),
        (r"\.attention\.self\.continuous_position_bias_mlp\.", ".attn.w_msa.cpb_mlp."),
        (r"\.attention\.self\.", ".attn.w_msa."),
        (r"\.attention\.output\.dense\.", ".attn.w_msa.proj."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.intermediate\.dense\.", ".ffn.layers.0.0."),
        (r"\.output\.dense\.", ".ffn.layers.1."),
        (r"\.query\.bias$", ".q_bias"),
        (r"\.value\.bias$", ".v_bias"),
        (r"\.(query|key|value)\.weight$", lambda found: f".{found[1][0]}.weight"),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, SwinTransformerV2)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        return join_qkv(merged_first(super().convert(module, weights)))


def merged_first(weights: Weights) -> Weights:
    """Return the weights with patch merging at the start of a stage, in the channel order of `torch.nn.Unfold`."""
    at_the_end = any(key.startswith("stages.0.downsample.") for key in weights)
    converted = {}
    for key, value in weights.items():
        if key.endswith(CONSTANTS):
            continue
        if ".downsample." in key and at_the_end:
            key = re.sub(r"^stages\.(\d+)", lambda found: f"stages.{int(found[1]) + 1}", key)
        converted[key] = unfolded(value) if key.endswith(".downsample.reduction.weight") else value
    return converted
