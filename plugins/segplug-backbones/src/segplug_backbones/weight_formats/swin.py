"""The Swin Transformer as its authors, timm and torchvision publish it."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import Tensor, nn

from segplug_backbones.swin import SwinTransformer
from segplug_backbones.weight_formats.renaming import Renaming, Weights

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
            if key.endswith(("relative_position_index", "attn_mask")):
                continue  # constants of the window size
            if ".downsample." in key:
                value = unfolded(value)
                if merges_first:
                    key = re.sub(r"^stages\.(\d+)", lambda found: f"stages.{int(found[1]) - 1}", key)
            converted[key] = value
        return converted


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
        kept = {key: value for key, value in renamed.items() if not key.endswith("relative_position_index")}
        return {key: unfolded(value) if ".downsample." in key else value for key, value in kept.items()}


def unfolded(value: Tensor) -> Tensor:
    """Return patch-merging weights (..., 4 C) reordered for the channel order of `torch.nn.Unfold`.

    The authors join them column by column, all channels of one after those of another; unfolding gives, for each
    channel, its four neighbours row by row.
    """
    parts = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return parts.transpose(-1, -2).flatten(-2).contiguous()
