"""Hiera and SAM 2's image encoder as transformers and SAM 2's authors publish them."""

from __future__ import annotations

from itertools import accumulate
from typing import ClassVar

from torch import nn

from segplug_backbones.hiera import Hiera
from segplug_backbones.sam2_hiera import SAM2Hiera
from segplug_backbones.weight_formats.renaming import Renaming, Weights, rename


class TransformersHiera(Renaming):
    """The names of transformers: blocks are counted within their stage."""

    mark = r"(^|\.)stages\.0\.layers\.0\.layernorm_before\.weight$"
    rules: ClassVar = (
        (r"^hiera\.", ""),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^hidden_states_norms\.stage(\d)\.", lambda found: f"norm{int(found[1]) - 1}."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, Hiera)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        assert isinstance(module, Hiera)
        first = [0, *accumulate(module.depths)]
        block = (r"^(?:encoder\.)?stages\.(\d)\.layers\.(\d+)\.", lambda f: f"blocks.{first[int(f[1])] + int(f[2])}.")
        return rename(super().convert(module, weights), [block])


class TransformersSAM2Hiera(Renaming):
    """The names of transformers; without those of the neck."""

    mark = r"(^|\.)blocks\.0\.layer_norm1\.weight$"
    rules: ClassVar = (
        (r"^(vision_encoder\.)?(backbone\.)?", ""),
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"\.layer_norm([12])\.", r".norm\1."),
        (r"\.mlp\.proj_in\.", ".mlp.fc1."),
        (r"\.mlp\.proj_out\.", ".mlp.fc2."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, SAM2Hiera)


class OfficialSAM2Hiera(Renaming):
    """The authors' names, ``image_encoder.trunk.*``, without the other parts of SAM 2, and timm's, ``model.*``."""

    mark = r"^((image_encoder\.)?trunk\.)?blocks\.0\.norm1\.weight$"
    rules: ClassVar = (
        (r"^(image_encoder\.)?trunk\.", ""),
        (r"\.mlp\.layers\.0\.", ".mlp.fc1."),
        (r"\.mlp\.layers\.1\.", ".mlp.fc2."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, SAM2Hiera)
