"""The encoder of MAE, fine-tuned like BEiT: relative position biases and absolute position embeddings.

    backbone = MAE(img_size=512, out_indices=(3, 5, 7, 11))
    features = backbone(torch.rand(2, 3, 512, 512))  # four maps of 768 channels at stride 16

Masked Autoencoders Are Scalable Vision Learners, He et al., 2022 (https://arxiv.org/abs/2111.06377).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict, Unpack

from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.nn import resize_pos_embed
from segplug_backbones.adapters import Adapter
from segplug_backbones.beit import BEiT, BEiTLayer
from segplug_backbones.positions import interpolate_pos_embed
from segplug_backbones.vit import Grid


class MAEArguments(TypedDict, total=False):
    """Arguments of `MAE`: those of `BEiT` but for ``qv_bias``."""

    img_size: PositiveInt | tuple[PositiveInt, PositiveInt]
    patch_size: PositiveInt
    in_channels: PositiveInt
    embed_dims: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    mlp_ratio: PositiveInt
    out_indices: int | Sequence[int]
    attn_drop_rate: Probability
    drop_path_rate: Probability
    norm_cfg: Mapping[str, Any]
    act_cfg: Mapping[str, Any]
    patch_norm: bool
    final_norm: bool
    num_fcs: PositiveInt
    norm_eval: bool
    pretrained: str | None
    init_values: NonNegative
    interpolate_mode: Literal["bilinear", "bicubic"]
    adapt: Adapter | None


class MAE(BEiT):
    """`BEiT` with absolute position embeddings and a bias for keys as well; any image size will do."""

    fixed_arguments = frozenset({"qv_bias"})

    def __init__(self, **kwargs: Unpack[MAEArguments]) -> None:
        super().__init__(qv_bias=False, **kwargs)
        # MAE pretrains with fixed sine and cosine embeddings; checkpoints bring those, and fine-tuning trains them.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], self.channels[0]))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def _qkv_bias(self, qv_bias: bool) -> bool | str:
        return True

    def _add_positions(self, tokens: Tensor, size: Grid) -> Tensor:
        return tokens + resize_pos_embed(self.pos_embed, self.grid, size, mode="bicubic")

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate position embeddings of another image size."""
        return interpolate_pos_embed(value, self.grid) if name == "pos_embed" else None

    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        # As BEiT's authors do: the output projections shrink with depth, so that the sum of all branches does not grow.
        with torch.no_grad():
            for number, layer in enumerate(self.layers, start=1):
                assert isinstance(layer, BEiTLayer)
                for output in (layer.attn.proj, layer.ffn.layers[1]):
                    assert isinstance(output, nn.Linear)
                    output.weight /= math.sqrt(2.0 * number)
