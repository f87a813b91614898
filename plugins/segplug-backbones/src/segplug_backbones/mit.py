"""Mix Transformer (MiT), the backbone of SegFormer: a hierarchical transformer without position embeddings.

    features = mit_b0()(torch.rand(2, 3, 512, 512))  # 32, 64, 160, 256 channels at strides 4, 8, 16, 32

SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, Xie et al., 2021
(https://arxiv.org/abs/2105.15203).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from segkernel.annotations import PositiveInt, Probability
from segkernel.interfaces.model import Backbone
from segkernel.nn import (
    LayerConfig,
    MultiheadAttention,
    PatchEmbed,
    build_activation,
    build_dropout,
    build_norm,
    check_out_indices,
    check_per_stage,
    checkpoint_block,
    linear_drop_path_rates,
    nchw_to_nlc,
    nlc_to_nchw,
)
from segplug_backbones.adapters import Adapter
from segplug_backbones.dilation import dilate
from segplug_backbones.factory import factory
from segplug_backbones.init import pvt_init
from segplug_backbones.pretrained import Pretrained

Size = tuple[int, int]


class MixFFN(nn.Module):
    """Feed-forward network with a depthwise 3x3 convolution, equation 3 of the paper.

    (N, H * W, C) and (H, W) -> (N, H * W, C). The zero padding of the convolution takes the place of position
    embeddings. The linear layers are 1x1 convolutions.
    """

    def __init__(
        self, embed_dims: int, hidden: int, *, act_cfg: LayerConfig, drop_rate: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(embed_dims, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            build_activation(act_cfg),
            nn.Dropout(drop_rate),
            nn.Conv2d(hidden, embed_dims, 1),
            nn.Dropout(drop_rate),
        )
        self.dropout_layer = build_dropout({"type": "DropPath", "drop_prob": drop_path_rate})

    def forward(self, x: Tensor, size: Size, identity: Tensor) -> Tensor:
        return identity + self.dropout_layer(nchw_to_nlc(self.layers(nlc_to_nchw(x, size))))


class EfficientMultiheadAttention(MultiheadAttention):
    """Attention with keys and values of a map reduced by ``sr_ratio`` per side, equation 2 of the paper.

    (N, H * W, C) and (H, W) -> (N, H * W, C).
    """

    def __init__(
        self,
        embed_dims: int,
        *,
        num_heads: int,
        sr_ratio: int,
        norm_cfg: LayerConfig,
        qkv_bias: bool,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__(
            embed_dims,
            num_heads,
            attn_drop=attn_drop_rate,
            proj_drop=drop_rate,
            dropout_layer={"type": "DropPath", "drop_prob": drop_path_rate},
            qkv_bias=qkv_bias,
        )
        self.sr_ratio = sr_ratio
        if sr_ratio > 1:
            # Kernel = stride: the reshape and linear layer of equation 2, whose R is sr_ratio squared.
            self.sr = nn.Conv2d(embed_dims, embed_dims, sr_ratio, stride=sr_ratio)
            self.norm = build_norm(norm_cfg, embed_dims)[1]

    def forward(self, x: Tensor, size: Size, identity: Tensor) -> Tensor:  # type: ignore[override]
        reduced = self.norm(nchw_to_nlc(self.sr(nlc_to_nchw(x, size)))) if self.sr_ratio > 1 else x
        return super().forward(x, key=reduced, identity=identity)


class TransformerEncoderLayer(nn.Module):
    """Efficient attention and `MixFFN`, each after a norm: (N, H * W, C) and (H, W) -> (N, H * W, C)."""

    def __init__(
        self,
        embed_dims: int,
        *,
        num_heads: int,
        feedforward_channels: int,
        sr_ratio: int,
        qkv_bias: bool,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        act_cfg: LayerConfig,
        norm_cfg: LayerConfig,
        reduction_norm_cfg: LayerConfig,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm_cfg, embed_dims)[1]
        self.attn = EfficientMultiheadAttention(
            embed_dims,
            num_heads=num_heads,
            sr_ratio=sr_ratio,
            norm_cfg=reduction_norm_cfg,
            qkv_bias=qkv_bias,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
        )
        self.norm2 = build_norm(norm_cfg, embed_dims)[1]
        self.ffn = MixFFN(
            embed_dims, feedforward_channels, act_cfg=act_cfg, drop_rate=drop_rate, drop_path_rate=drop_path_rate
        )
        self.with_cp = with_cp

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return checkpoint_block(self, x, size, forward=self._forward, enabled=self.with_cp)

    def _forward(self, x: Tensor, size: Size) -> Tensor:
        x = self.attn(self.norm1(x), size, identity=x)
        return self.ffn(self.norm2(x), size, identity=x)


class MixVisionTransformer(Pretrained, Backbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 4, 8, 16, 32 by default.

    Odd sizes are rounded up. With the default ``sr_ratios`` an image needs 29 pixels a side at least.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of one attention head; a stage has this times its ``num_heads``.
        num_stages: Stages to build.
        num_layers: Transformer layers of each stage.
        num_heads: Attention heads of each stage.
        patch_sizes: Side of the overlapping patches that each stage starts with, in pixels of its input.
        strides: Step between those patches.
        sr_ratios: Reduction of the keys and values of each stage per side.
        out_indices: The stages to return, counted from 0.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of the channels of the stage.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_rate: Dropout rate of the projections and in the feed-forward networks.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Drop path rate of the last layer; it rises linearly from 0 at the first one.
        act_cfg: Type of the activations.
        norm_cfg: Type of the norms and its arguments.
        embed_norm_cfg: Type of the norms after patch embeddings and after the reduction of keys, for which the authors'
            code has an eps of 1e-5; ``norm_cfg`` for None.
        output_stride: Stride of the last stage; stages that would exceed it are dilated instead.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {"embed_dims": 8, "num_layers": (1, 2, 1, 1), "num_heads": (1, 2, 5, 8)}

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        embed_dims: PositiveInt = 64,
        num_stages: PositiveInt = 4,
        num_layers: Sequence[PositiveInt] = (3, 4, 6, 3),
        num_heads: Sequence[PositiveInt] = (1, 2, 4, 8),
        patch_sizes: Sequence[PositiveInt] = (7, 3, 3, 3),
        strides: Sequence[PositiveInt] = (4, 2, 2, 2),
        sr_ratios: Sequence[PositiveInt] = (8, 4, 2, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        mlp_ratio: PositiveInt = 4,
        qkv_bias: bool = True,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        drop_path_rate: Probability = 0.0,
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        norm_cfg: Mapping[str, Any] = {"type": "LN", "eps": 1e-6},
        with_cp: bool = False,
        pretrained: str | None = None,
        adapt: Adapter | None = None,
        embed_norm_cfg: Mapping[str, Any] | None = None,
        output_stride: Literal[8, 16, 32] = 32,
    ) -> None:
        super().__init__()
        self.pretrained, self.adapt = pretrained, adapt
        per_stage = {
            "num_layers": num_layers,
            "num_heads": num_heads,
            "patch_sizes": patch_sizes,
            "strides": strides,
            "sr_ratios": sr_ratios,
        }
        check_per_stage(num_stages, per_stage)
        widths = [embed_dims * heads for heads in num_heads]
        drop_path_rates = iter(linear_drop_path_rates(drop_path_rate, sum(num_layers)))
        self.layers = nn.ModuleList()
        for i in range(num_stages):
            embed = PatchEmbed(
                in_channels if i == 0 else widths[i - 1],
                widths[i],
                kernel_size=patch_sizes[i],
                stride=strides[i],
                padding=patch_sizes[i] // 2,  # patches overlap: K=7, S=4, P=3, then K=3, S=2, P=1
                norm_cfg=embed_norm_cfg or norm_cfg,
            )
            layers = [
                TransformerEncoderLayer(
                    widths[i],
                    num_heads=num_heads[i],
                    feedforward_channels=mlp_ratio * widths[i],
                    sr_ratio=sr_ratios[i],
                    qkv_bias=qkv_bias,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    drop_path_rate=next(drop_path_rates),
                    act_cfg=act_cfg,
                    norm_cfg=norm_cfg,
                    reduction_norm_cfg=embed_norm_cfg or norm_cfg,
                    with_cp=with_cp,
                )
                for _ in range(num_layers[i])
            ]
            norm = build_norm(norm_cfg, widths[i])[1]
            self.layers.append(nn.ModuleList([embed, nn.ModuleList(layers), norm]))
        self.out_indices = check_out_indices(out_indices, num_stages)
        self.channels = tuple(widths[i] for i in self.out_indices)
        reductions = [math.prod(strides[: i + 1]) for i in range(num_stages)]
        self.strides = tuple(min(reductions[i], output_stride) for i in self.out_indices)
        for stage, stride in zip(self.layers, reductions, strict=True):
            if stride > output_stride:
                dilate(stage, stride // output_stride)
        self.apply(pvt_init)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = images, []
        stages: Any = self.layers  # a list of [patch embedding, layers, norm], by MMSegmentation's state-dict keys
        for embed, layers, norm in stages:
            tokens, size = embed(x)
            for layer in layers:
                tokens = layer(tokens, size)
            x = nlc_to_nchw(norm(tokens), size)
            outputs.append(x)
        return tuple(outputs[i] for i in self.out_indices)


VARIANTS: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "b0": (32, (2, 2, 2, 2)),
    "b1": (64, (2, 2, 2, 2)),
    "b2": (64, (3, 4, 6, 3)),
    "b3": (64, (3, 4, 18, 3)),
    "b4": (64, (3, 8, 27, 3)),
    "b5": (64, (3, 6, 40, 3)),
}
"""Table 6 of the paper: channels per head and layers of each stage; all have 1, 2, 5 and 8 heads."""


@factory
def mit_b0(in_channels: int = 3, drop_path_rate: float = 0.1, pretrained: str | None = None) -> MixVisionTransformer:
    """MiT-B0, 3.3 M parameters."""
    return _variant("b0", in_channels, drop_path_rate, pretrained)


@factory
def mit_b1(in_channels: int = 3, drop_path_rate: float = 0.1, pretrained: str | None = None) -> MixVisionTransformer:
    """MiT-B1, 13.2 M parameters."""
    return _variant("b1", in_channels, drop_path_rate, pretrained)


@factory
def mit_b2(in_channels: int = 3, drop_path_rate: float = 0.1, pretrained: str | None = None) -> MixVisionTransformer:
    """MiT-B2, 24.2 M parameters."""
    return _variant("b2", in_channels, drop_path_rate, pretrained)


@factory
def mit_b3(in_channels: int = 3, drop_path_rate: float = 0.1, pretrained: str | None = None) -> MixVisionTransformer:
    """MiT-B3, 44.1 M parameters."""
    return _variant("b3", in_channels, drop_path_rate, pretrained)


@factory
def mit_b4(in_channels: int = 3, drop_path_rate: float = 0.1, pretrained: str | None = None) -> MixVisionTransformer:
    """MiT-B4, 60.8 M parameters."""
    return _variant("b4", in_channels, drop_path_rate, pretrained)


@factory
def mit_b5(in_channels: int = 3, drop_path_rate: float = 0.1, pretrained: str | None = None) -> MixVisionTransformer:
    """MiT-B5, 81.4 M parameters."""
    return _variant("b5", in_channels, drop_path_rate, pretrained)


def _variant(name: str, in_channels: int, drop_path_rate: float, pretrained: str | None) -> MixVisionTransformer:
    embed_dims, num_layers = VARIANTS[name]
    return MixVisionTransformer(
        in_channels,
        embed_dims,
        num_layers=num_layers,
        num_heads=(1, 2, 5, 8),
        drop_path_rate=drop_path_rate,
        pretrained=pretrained,
    )
