"""The Mix Vision Transformer, and whole SegFormers, as their authors publish them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import ClassVar

import torch
from torch import nn

from segplug_backbones.mit import MixVisionTransformer
from segplug_backbones.weight_formats.renaming import Renaming, Weights, rename, without_prefix


class OfficialMiT(Renaming):
    """The authors' names, with queries apart from keys and values, and linear layers where we have 1x1 convolutions."""

    mark = r"^block1\.0\.attn\.kv\.weight$"
    rules: ClassVar = (
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
        renamed = super().convert(module, weights)
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
    head_rules: ClassVar = (
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
        converted = {f"backbone.{key}": value for key, value in super().convert(module, without_prefix(trunk)).items()}
        for key, value in rename(head, self.head_rules).items():
            if re.search(r"^convs\.\d\.conv\.weight$", key):
                value = as_convolution(value)
            if key == "fusion_conv.conv.weight":
                value = torch.cat(value.chunk(4, 1)[::-1], 1)
            converted[f"decode_head.{key}"] = value
        return converted


def as_convolution(weight: torch.Tensor) -> torch.Tensor:
    """Return a linear layer's weight (out, in) as that of a 1x1 convolution."""
    return weight[:, :, None, None] if weight.ndim == 2 else weight
