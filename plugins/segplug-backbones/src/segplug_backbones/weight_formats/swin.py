"""The Swin Transformer as its authors, timm, torchvision and transformers publish it."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import Tensor, nn

from segplug_backbones.swin import SwinTransformer
from segplug_backbones.weight_formats.renaming import Renaming, Weights, join_qkv

CONSTANTS = ("relative_position_index", "attn_mask")
"""Buffers that follow from the window size, which may differ in this model."""
COMMON: tuple[tuple[str, str], ...] = (
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)


class OfficialSwin(Renaming):
    """The authors' names, and timm's, which since its version 0.9 merges at the start of a stage, not at its end."""

    mark = r"^layers\.0\.blocks\.0\.attn\.qkv\.weight$"
    rules: ClassVar = (
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"^norm\.", "norm3."),
        (r"^layers\.", "stages."),
        *COMMON,
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, SwinTransformer)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        renamed = super().convert(module, weights)
        merges_first = not any(key.startswith("stages.0.downsample.") for key in renamed)
        converted = {}
        for key, value in renamed.items():
            if key.endswith(CONSTANTS):
                continue
            if ".downsample." in key:
                value = unfolded(value)
                if merges_first:
                    key = re.sub(r"^stages\.(\d+)", lambda found: f"stages.{int(found[1]) - 1}", key)
            converted[key] = value
        return converted | _constants(module)


class TorchvisionSwin(Renaming):
    """torchvision's names: stages and merging in one sequence."""

    mark = r"^features\.1\.0\.attn\.qkv\.weight$"
    rules: ClassVar = (
        (r"^features\.0\.0\.", "patch_embed.projection."),
        (r"^features\.0\.2\.", "patch_embed.norm."),
        (r"^features\.([246])\.", lambda found: f"stages.{int(found[1]) // 2 - 1}.downsample."),
        (r"^features\.([1357])\.(\d+)\.", lambda found: f"stages.{int(found[1]) // 2}.blocks.{found[2]}."),
        (r"^norm\.", "norm3."),
        (r"\.attn\.", ".attn.w_msa."),
        (r"\.mlp\.0\.", ".ffn.layers.0.0."),
        (r"\.mlp\.3\.", ".ffn.layers.1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, SwinTransformer)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        renamed = super().convert(module, weights)
        kept = {key: value for key, value in renamed.items() if not key.endswith(CONSTANTS)}
        unmerged = {key: unfolded(value) if ".downsample." in key else value for key, value in kept.items()}
        return unmerged | _constants(module)


class TransformersSwin(Renaming):
    """Hugging Face transformers' names, those in its files and those that its version 5 has in memory."""

    mark = r"layers\.0\.blocks\.0\.attention\.(self\.query|q_proj)\.weight$"
    rules: ClassVar = (
        (r"^swin\.", ""),
        (r"^embeddings\.patch_embeddings\.", "patch_embed."),
        (r"^embeddings\.norm\.", "patch_embed.norm."),
        (r"^embeddings\.position_embeddings$", "absolute_pos_embed"),
        (r"^(encoder\.)?layers\.", "stages."),
        (r"^hidden_states_norms\.stage(\d)\.", lambda found: f"norm{int(found[1]) - 1}."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.(self|relative_position_bias)\.relative_", ".attn.w_msa.relative_"),
        (r"\.attention\.(self\.)?(q|k|v)(uery|ey|alue|_proj)\.", r".attn.w_msa.\2."),
        (r"\.attention\.(output\.dense|o_proj)\.", ".attn.w_msa.proj."),
        (r"\.(intermediate\.dense|mlp\.fc1)\.", ".ffn.layers.0.0."),
        (r"\.(output\.dense|mlp\.fc2)\.", ".ffn.layers.1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, SwinTransformer)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        renamed = join_qkv(super().convert(module, weights))
        final = {key: renamed.pop(key) for key in ("layernorm.weight", "layernorm.bias") if key in renamed}
        if "norm0.weight" not in renamed:  # a classifier: it has a norm after the last stage only
            renamed |= {key.replace("layernorm", "norm3"): value for key, value in final.items()}
        kept = {key: value for key, value in renamed.items() if not key.endswith((*CONSTANTS, "mask_token"))}
        unmerged = {key: unfolded(value) if ".downsample." in key else value for key, value in kept.items()}
        return unmerged | _constants(module)


def _constants(module: nn.Module) -> Weights:
    """Return this model's own values of `CONSTANTS`."""
    return {key: value for key, value in module.state_dict().items() if key.endswith(CONSTANTS)}


def unfolded(value: Tensor) -> Tensor:
    """Return patch-merging weights (..., 4 C) reordered for the channel order of `torch.nn.Unfold`.

    The authors join them column by column, all channels of one after those of another; unfolding gives, for each
    channel, its four neighbours row by row.
    """
    parts = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return parts.transpose(-1, -2).flatten(-2).contiguous()
