"""MobileViT and MobileViTV2 of transformers."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from segplug_backbones.mobilevit import MobileViT
from segplug_backbones.mobilevit_v2 import MobileViTV2
from segplug_backbones.weight_formats.renaming import Renaming, Rule, Weights, join_qkv


class TransformersMobileViT(Renaming):
    """transformers' names of both networks."""

    mark = r"^(mobilevit(v2)?\.)?(encoder\.)?layer\.2\.conv_kxk\.convolution\.weight$"
    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^mobilevit(v2)?\.", ""),
        (r"^encoder\.", ""),
        (r"^conv_stem\.", "stem."),
        (r"^layer\.(\d)\.layer\.", r"stages.\1."),
        (r"^layer\.(\d)\.downsampling_layer\.", r"stages.\1.0."),
        (r"^layer\.(\d)\.", r"stages.\1.1."),
        (r"\.expand_1x1\.", ".conv1_1x1."),
        (r"\.conv_3x3\.", ".conv2_kxk."),
        (r"\.reduce_1x1\.", ".conv3_1x1."),
        (r"\.conv_projection\.", ".conv_proj."),
        (r"\.fusion\.", ".conv_fusion."),
        (r"\.transformer\.layer\.", ".transformer."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.layernorm\.", ".norm."),
        (r"\.attention\.attention\.(q|k|v)(uery|ey|alue)\.", r".attn.\1."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.attention\.(qkv_proj|out_proj)\.convolution\.", r".attn.\1."),
        (r"\.ffn\.conv([12])\.convolution\.", r".mlp.fc\1."),
        (r"\.conv_1x1\.convolution\.", ".conv_1x1."),
        (r"\.convolution\.", ".conv."),
        (r"\.normalization\.", ".bn."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, MobileViT | MobileViTV2)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        kept = {key: value for key, value in weights.items() if "conv_1x1_exp." not in key}  # of a classifier
        return join_qkv(super().convert(module, kept))
