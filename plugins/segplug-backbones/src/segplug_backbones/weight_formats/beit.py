"""BEiT and MAE as their authors publish them."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import nn

from segplug_backbones.beit import BEiT
from segplug_backbones.weight_formats.renaming import Renaming, Rule, Weights, join_qkv

SHARED = "rel_pos_bias.relative_position_bias_table"


class OfficialBEiT(Renaming):
    """timm's names; before fine-tuning, all layers share one relative position table. MAE's encoder has them, too."""

    mark = r"^blocks\.0\.attn\.qkv\.weight$"
    rules: ClassVar = (
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"^norm\.", "ln1."),
        (r"^blocks\.(\d+)\.", r"layers.\1."),
        (r"\.norm([12])\.", r".ln\1."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, BEiT)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        renamed = super().convert(module, weights)
        # The index follows from the window size, which may differ in this model.
        converted = {key: value for key, value in renamed.items() if not key.endswith("relative_position_index")}
        if (shared := converted.pop(SHARED, None)) is not None:
            layers = {found[1] for key in converted if (found := re.match(r"layers\.(\d+)\.", key))}
            converted |= {f"layers.{i}.attn.relative_position_bias_table": shared.clone() for i in sorted(layers)}
        return converted


class TransformersBEiT(Renaming):
    """The names of transformers 5 in memory, or those in its files."""

    mark = r"^(beit\.)?(layers\.0\.attention\.q_proj|(encoder\.)?layer\.0\.attention\.attention\.query)\.weight$"
    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^beit\.", ""),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.patch_embeddings\.", "patch_embed."),
        (r"^(encoder\.)?layers?\.", "layers."),
        (r"\.lambda_([12])$", r".gamma_\1"),
        (r"\.layernorm_before\.", ".ln1."),
        (r"\.layernorm_after\.", ".ln2."),
        (r"\.(attention\.attention\.)?relative_position_bias\.", ".attn."),
        (r"\.attention\.(attention\.)?(q|k|v)(uery|ey|alue|_proj)\.", r".attn.\2."),
        (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.(intermediate\.dense|mlp\.fc1)\.", ".ffn.layers.0.0."),
        (r"\.(output\.dense|mlp\.fc2)\.", ".ffn.layers.1."),
        (r"\.attn\.([qv])\.bias$", r".attn.\1_bias"),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, BEiT)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        own = {key: value for key, value in module.state_dict().items() if key.endswith("relative_position_index")}
        renamed = join_qkv(super().convert(module, weights))
        # The norm after the last layer, and the mask token of pretraining, are not used for dense prediction.
        kept = {key: value for key, value in renamed.items() if re.match("layers|cls_token|patch_embed", key)}
        return kept | own
