"""DINOv2 and DINOv3 vision transformers of their authors, of timm and of transformers."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import ClassVar

import torch
from torch import nn

from segplug_backbones.dinov2 import DINOv2
from segplug_backbones.dinov3 import DINOv3
from segplug_backbones.plain_vit import PlainViT
from segplug_backbones.weight_formats.renaming import Renaming, Weights

UNUSED = re.compile(r"(^|\.)mask_token$|^rope_embed\.|\.bias_mask$|^(local_)?cls_norm\.|^head\.")
"""What training without labels needed: masked patches, a second norm, and constants."""


class OfficialDINO(Renaming):
    """The authors' names, and timm's, which differ in a few."""

    mark = r"^(reg_token|storage_tokens|mask_token|blocks\.0\.(mlp\.(w12|fc1|fc1_g)\.weight|attn\.qkv\.bias|gamma_1))$"
    rules: ClassVar = (
        (r"^(reg_token|storage_tokens)$", "register_tokens"),
        (r"\.gamma_([12])$", r".ls\1.gamma"),
        (r"\.mlp\.fc1_g\.", ".mlp.w1."),
        (r"\.mlp\.fc1_x\.", ".mlp.w2."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, DINOv2 | DINOv3)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        assert isinstance(module, PlainViT)
        return to_plain_vit(module, super().convert(module, weights))


class TransformersDINO(Renaming):
    """transformers' names, in memory and in files."""

    mark = r"^(dinov2\.)?embeddings\.patch_embeddings\."
    rules: ClassVar = (
        (r"^dinov2\.", ""),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
        (r"^embeddings\.", ""),
        (r"^layernorm\.", "norm."),
        (r"^(encoder\.)?layer\.", "blocks."),
        (r"\.attention\.(attention\.)?", ".attn."),
        (r"\.attn\.(query|key|value)\.", lambda found: f".attn.{found[1][0]}_proj."),
        (r"\.attn\.(output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.w12."),
        (r"\.mlp\.weights_out\.", ".mlp.w3."),
        (r"\.mlp\.gate_proj\.", ".mlp.w1."),
        (r"\.mlp\.up_proj\.", ".mlp.fc1."),
        (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, DINOv2 | DINOv3)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        assert isinstance(module, PlainViT)
        return to_plain_vit(module, super().convert(module, weights))


def to_plain_vit(module: PlainViT, weights: Weights) -> Weights:
    """Return weights in the shapes of the blocks of `PlainViT`.

    Args:
        module: The target: its biases and its feed-forward networks decide the names.
        weights: Under its names, but for queries, keys and values in tensors of their own, ``q_proj``, gates in one
            tensor, ``w12`` or ``fc1``, or named as by transformers, and position embeddings without a class token.
    """
    own = module.state_dict().keys()
    converted = {key: value for key, value in weights.items() if not UNUSED.search(key)}
    for key in [key for key in converted if key.endswith(".attn.q_proj.weight")]:
        parts = [converted.pop(key.replace("q_proj", name)) for name in ("q_proj", "k_proj", "v_proj")]
        converted[key.replace("q_proj", "qkv")] = torch.cat(parts)
    for block in [key.removesuffix("qkv.weight") for key in converted if key.endswith(".attn.qkv.weight")]:
        _convert_biases(block, own, converted)
        _convert_gates(block.replace(".attn.", ".mlp."), own, converted)
    positions = converted.get("pos_embed")
    if positions is not None and module.grid and positions.shape[1] == module.grid[0] * module.grid[1]:
        # timm's models with registers have none for the class token: it is a part of that token.
        converted["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)
    return converted


def _convert_biases(attention: str, own: Collection[str], weights: Weights) -> None:
    """Join or split the biases of queries, keys and values; the masked one of keys of DINOv3's authors is dropped."""
    width = weights[f"{attention}qkv.weight"].shape[1]
    parts = [weights.pop(f"{attention}{name}_proj.bias", None) for name in "qkv"]
    if (joint := weights.pop(f"{attention}qkv.bias", None)) is not None:
        parts = list(joint.chunk(3))
    query, key, value = (torch.zeros(width) if part is None else part for part in parts)
    if f"{attention}qkv.bias" in own:
        weights[f"{attention}qkv.bias"] = torch.cat([query, key, value])
    elif f"{attention}q_bias" in own:  # timm's DINOv3 has none, which is the same as zeros
        weights.setdefault(f"{attention}q_bias", query)
        weights.setdefault(f"{attention}v_bias", value)


def _convert_gates(mlp: str, own: Collection[str], weights: Weights) -> None:
    """Split the first layer of a gated network in two; rename its last one."""
    if f"{mlp}w1.weight" not in own:
        return
    for kind in ("weight", "bias"):
        first, last = weights.pop(f"{mlp}fc1.{kind}", None), weights.pop(f"{mlp}fc2.{kind}", None)
        packed = weights.pop(f"{mlp}w12.{kind}", None)
        if last is not None:
            weights[f"{mlp}w3.{kind}"] = last
        if f"{mlp}w1.{kind}" in weights:
            if first is not None:  # transformers' second factor
                weights[f"{mlp}w2.{kind}"] = first
        elif (joint := packed if first is None else first) is not None:
            weights[f"{mlp}w1.{kind}"], weights[f"{mlp}w2.{kind}"] = joint.chunk(2)
