"""Vision transformers of timm, DeiT, mmpretrain, CLIP and the original JAX models."""

from __future__ import annotations

import re
from typing import ClassVar

import torch
from torch import Tensor, nn

from segplug_backbones.vit import VisionTransformer
from segplug_backbones.weight_formats.renaming import (
    Renaming,
    Rule,
    Weights,
    join_qkv,
    rename,
    without_prefix,
)


class TimmViT(Renaming):
    """timm's names, which DeiT and many other models use too."""

    mark = r"^blocks\.0\.attn\.qkv\.weight$"
    rules: ClassVar = (
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln1."),
        (r"^blocks\.(\d+)\.", r"layers.\1."),
        (r"\.norm([12])\.", r".ln\1."),
        (r"\.attn\.qkv\.", ".attn.attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.attn.out_proj."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, VisionTransformer)


class MMPretrainViT(Renaming):
    """mmpretrain's names: query, key and value projections in one linear layer."""

    mark = r"^layers\.0\.attn\.qkv\.weight$"
    rules: ClassVar = (
        (r"^pre_norm\.", "ln_pre."),
        (r"\.attn\.qkv\.", ".attn.attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.attn.out_proj."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, VisionTransformer)


class CLIPViT(Renaming):
    """The image encoder with OpenAI's and OpenCLIP's names. The backbone needs ``pre_norm=True``.

    CLIP's last norm, which CLIP applies to the class token only, is loaded if the backbone has ``final_norm=True``.
    """

    mark = r"^visual\.class_embedding$"
    rules: ClassVar = (
        (r"^visual\.conv1\.", "patch_embed.projection."),
        (r"^visual\.class_embedding$", "cls_token"),
        (r"^visual\.positional_embedding$", "pos_embed"),
        (r"^visual\.ln_pre\.", "ln_pre."),
        (r"^visual\.ln_post\.", "ln1."),
        (r"^visual\.transformer\.resblocks\.", "layers."),
        (r"\.ln_([12])\.", r".ln\1."),
        (r"\.attn\.(in_proj_|out_proj\.)", r".attn.attn.\1"),
        (r"\.mlp\.c_fc\.", ".ffn.layers.0.0."),
        (r"\.mlp\.c_proj\.", ".ffn.layers.1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, VisionTransformer)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        visual = {key: value for key, value in without_prefix(weights).items() if key.startswith("visual.")}
        shapes = {"cls_token": (1, 1, -1), "pos_embed": (1, *visual["visual.positional_embedding"].shape)}
        converted = rename(visual, self.rules)
        return {key: value.reshape(shapes[key]) if key in shapes else value for key, value in converted.items()}


class TransformersViT(Renaming):
    """The names of transformers, of its ViT and of the one in its DPT."""

    mark = r"^((vit|dpt)\.)?((encoder\.)?layer\.0\.attention\.attention\.query|layers\.0\.attention\.q_proj)\.weight$"
    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^(vit|dpt)\.", ""),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.", "patch_embed."),
        (r"^layernorm\.", "ln1."),
        (r"^(encoder\.)?layers?\.", "layers."),
        (r"\.layernorm_before\.", ".ln1."),
        (r"\.layernorm_after\.", ".ln2."),
        (r"\.attention\.(attention\.)?(q|k|v)(uery|ey|alue|_proj)\.", r".attn.attn.\2."),
        (r"\.attention\.(output\.dense|o_proj)\.", ".attn.attn.out_proj."),
        (r"\.(intermediate\.dense|mlp\.fc1)\.", ".ffn.layers.0.0."),
        (r"\.(output\.dense|mlp\.fc2)\.", ".ffn.layers.1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, VisionTransformer)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        renamed = rename(join_qkv(super().convert(module, weights)), ((r"\.qkv\.", ".in_proj_"),))
        own = module.state_dict()  # dense models do not use the last norm and what follows it
        return {key: value for key, value in renamed.items() if key in own or not key.startswith(("ln1.", "pooler."))}


class JaxViT(Renaming):
    """Arrays of the original models (.npz): (in, out) in place of torch's (out, in), with a separate axis for heads."""

    mark = r"^Transformer/encoderblock_0/"
    rules: ClassVar = (
        (r"^embedding/", "patch_embed.projection."),
        (r"^cls$", "cls_token"),
        (r"^Transformer/posembed_input/pos_embedding$", "pos_embed"),
        (r"^Transformer/encoder_norm/", "ln1."),
        (r"^Transformer/encoderblock_(\d+)/", r"layers.\1."),
        (r"LayerNorm_0/", "ln1."),
        (r"LayerNorm_2/", "ln2."),
        (r"MlpBlock_3/Dense_0/", "ffn.layers.0.0."),
        (r"MlpBlock_3/Dense_1/", "ffn.layers.1."),
        (r"MultiHeadDotProductAttention_1/out/", "attn.attn.out_proj."),
        (r"MultiHeadDotProductAttention_1/", "attn.attn."),
        (r"/", "."),
        (r"\.(kernel|scale)$", ".weight"),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, VisionTransformer)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        renamed = {key: _transposed(key, value) for key, value in rename(weights, self.rules).items()}
        converted = {key: value for key, value in renamed.items() if not re.search(r"\.(query|key|value)\.", key)}
        for key in [key for key in renamed if ".query." in key]:
            parts = [renamed[key.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            converted[key.replace(".query.", ".in_proj_")] = torch.cat(parts)
        return converted


def _transposed(key: str, value: Tensor) -> Tensor:
    """Return an array in torch's axis order."""
    if "patch_embed" in key and value.ndim == 4:
        return value.permute(3, 2, 0, 1).contiguous()
    if re.search(r"\.(query|key|value)\.weight$", key):  # (C, heads, C / heads)
        return value.flatten(1).T.contiguous()
    if re.search(r"\.(query|key|value)\.bias$", key):
        return value.flatten()
    if key.endswith("out_proj.weight"):  # (heads, C / heads, C)
        return value.flatten(0, 1).T.contiguous()
    return value.T.contiguous() if key.endswith("weight") and value.ndim == 2 else value
