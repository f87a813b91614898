"""SAM's image encoder as its authors, transformers and timm publish it."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from segplug_backbones.vit_sam import ViTSAM
from segplug_backbones.weight_formats.renaming import Renaming

NECK = ("conv1", "layer_norm1", "conv2", "layer_norm2")


class OfficialSAM(Renaming):
    """The authors' names, ``image_encoder.*``, without the other parts of SAM, and timm's."""

    mark = r"^(image_encoder\.)?blocks\.0\.attn\.(rel_pos_h|qkv\.weight)$"
    rules: ClassVar = (
        (r"^image_encoder\.", ""),
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"^blocks\.", "layers."),
        (r"\.norm([12])\.", r".ln\1."),
        (r"\.mlp\.(lin1|fc1)\.", ".ffn.layers.0.0."),
        (r"\.mlp\.(lin2|fc2)\.", ".ffn.layers.1."),
        (r"^neck\.", "channel_reduction."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ViTSAM)


class TransformersSAM(Renaming):
    """The names of transformers, ``vision_encoder.*``."""

    mark = r"(^|\.)layers\.0\.attn\.(rel_pos_h|qkv\.weight)$"
    rules: ClassVar = (
        (r"^vision_encoder\.", ""),
        (r"^neck\.([a-z_]+[12])\.", lambda found: f"channel_reduction.{NECK.index(found[1])}."),
        (r"\.layer_norm([12])\.", r".ln\1."),
        (r"\.mlp\.lin1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.lin2\.", ".ffn.layers.1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ViTSAM)
