"""The Mix Vision Transformer, and whole SegFormers, as their authors publish them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import ClassVar

import torch
from torch import nn

from segplug_backbones.mit import MixVisionTransformer
from segplug_backbones.weight_formats.renaming import Renaming, Rule, Weights, rename, without_prefix


class OfficialMiT(Renaming):
    """The authors' names, with queries apart from keys and values, and linear layers where we have 1x1 convolutions."""

    mark = r"^block1\.0\.attn\.kv\.weight$"
    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^patch_embed(\d)\.proj\.", lambda found: f"layers.{int(found[1]) - 1}.0.projection."),
        (r"^patch_embed(\d)\.norm\.", lambda found: f"layers.{int(found[1]) - 1}.0.norm."),
        (r"^block(\d)\.", lambda found: f"layers.{int(found[1]) - 1}.1."),
        (r"^norm(\d)\.", lambda found: f"layers.{int(found[1]) - 1}.2."),
        (r"\.attn\.proj\.", ".attn.attn.out_proj."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0."),
        (r"\.mlp\.dwconv\.dwconv\.", ".ffn.layers.1."),
        (r"\.mlp\.fc2\.", ".ffn.layers.4."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, MixVisionTransformer)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        return self.convert_backbone(without_prefix(weights))

    def convert_backbone(self, weights: Weights) -> Weights:
        """Return the weights of a backbone, without prefixes of wrappers, under our names."""
        renamed = rename(weights, self.rules)
        converted = {}
        for key, value in renamed.items():
            if ".attn.kv." in key:
                continue
            if ".attn.q." in key:
                value = torch.cat([value, renamed[key.replace(".q.", ".kv.")]])
                key = key.replace(".attn.q.", ".attn.attn.in_proj_")
            converted[key] = as_convolution(value) if re.search(r"ffn\.layers\.[04]\.weight$", key) else value
        return converted


class OfficialSegFormer(OfficialMiT):
    """A whole model. Its head joins the maps from coarse to fine, after plain linear layers: a `SegformerHead` with
    ``linear_projection: true``."""

    mark = r"decode_head\.linear_c1\.proj\.weight$"
    head_rules: ClassVar[tuple[Rule, ...]] = (
        (r"^linear_c(\d)\.proj\.", lambda found: f"convs.{int(found[1]) - 1}.conv."),
        (r"^linear_fuse\.", "fusion_conv."),
        (r"^linear_pred\.", "conv_seg."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(getattr(module, "backbone", None), MixVisionTransformer)

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return self.fits(module) and any(re.search(self.mark, key) for key in keys)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        trunk = {key: value for key, value in weights.items() if "decode_head." not in key}
        head = {key.split("decode_head.")[1]: value for key, value in weights.items() if "decode_head." in key}
        backbone = self.convert_backbone(without_prefix(trunk))
        converted = {f"backbone.{key}": value for key, value in backbone.items()}
        for key, value in rename(head, self.head_rules).items():
            if re.search(r"^convs\.\d\.conv\.weight$", key):
                value = as_convolution(value)
            if key == "fusion_conv.conv.weight":
                value = torch.cat(value.chunk(4, 1)[::-1], 1)
            converted[f"decode_head.{key}"] = value
        return converted


def _stage(part: int) -> Callable[[re.Match[str]], str]:
    """Return the replacement of a part of a stage, whose number is in the last group."""
    return lambda found: f"layers.{found[found.lastindex or 0]}.{part}."


class TransformersSegFormer(OfficialSegFormer):
    """A whole model, or its backbone, by the names of transformers 5 in memory, or those in files."""

    mark = r"(stages\.0\.blocks\.0\.attention\.q_proj|block\.0\.0\.attention\.self\.query)\.weight$"
    prefix = r"^(segformer\.)?(encoder\.)?"
    rules: ClassVar[tuple[Rule, ...]] = (
        (prefix + r"(?:patch_embeddings\.(\d)|stages\.(\d)\.patch_embeddings)\.", _stage(0)),
        (prefix + r"(?:block\.(\d)|stages\.(\d)\.blocks)\.", _stage(1)),
        (prefix + r"(?:layer_norm\.(\d)|stages\.(\d)\.layer_norm)\.", _stage(2)),
        (r"^(layers\.\d\.0)\.proj\.", r"\1.projection."),
        (r"^(layers\.\d\.0)\.layer_norm\.", r"\1.norm."),
        (r"\.layer_norm_(\d)\.", r".norm\1."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.self\.(query|key|value)\.", lambda found: f".attn.{found[1][0]}_proj."),
        (r"\.attention\.([qkv]_proj)\.", r".attn.\1."),
        (r"\.attention\.(output\.dense|o_proj)\.", ".attn.attn.out_proj."),
        (r"\.attention\.(self\.sr|sequence_reduction\.sequence_reduction)\.", ".attn.sr."),
        (r"\.attention\.(self|sequence_reduction)\.layer_norm\.", ".attn.norm."),
        (r"\.mlp\.(dense1|fc1)\.", ".ffn.layers.0."),
        (r"\.mlp\.dwconv\.dwconv\.", ".ffn.layers.1."),
        (r"\.mlp\.(dense2|fc2)\.", ".ffn.layers.4."),
    )
    head_rules: ClassVar[tuple[Rule, ...]] = (
        (r"^linear_(c|projections)\.(\d)\.proj\.", r"convs.\2.conv."),
        (r"^linear_fuse\.", "fusion_conv.conv."),
        (r"^batch_norm\.", "fusion_conv.bn."),
        (r"^classifier\.", "conv_seg."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, MixVisionTransformer) or super().fits(module)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        converted = super().convert(module, weights)
        if isinstance(module, MixVisionTransformer):
            return {key.removeprefix("backbone."): value for key, value in converted.items()}
        return converted

    def convert_backbone(self, weights: Weights) -> Weights:
        renamed = rename(weights, self.rules)
        converted = {}
        for key, value in renamed.items():
            if re.search(r"\.attn\.[kv]_proj\.", key):
                continue
            if ".attn.q_proj." in key:
                value = torch.cat([renamed[key.replace(".q_", f".{part}_")] for part in "qkv"])
                key = key.replace(".attn.q_proj.", ".attn.attn.in_proj_")
            converted[key] = as_convolution(value) if re.search(r"ffn\.layers\.[04]\.weight$", key) else value
        return converted


def as_convolution(weight: torch.Tensor) -> torch.Tensor:
    """Return a linear layer's weight (out, in) as that of a 1x1 convolution."""
    return weight[:, :, None, None] if weight.ndim == 2 else weight
