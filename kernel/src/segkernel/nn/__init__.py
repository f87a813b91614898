"""Layers that all models are made of, and the base class of decode heads. Importing it imports torch."""

from __future__ import annotations

from segkernel.nn.attention import FFN, DotProductAttention, MultiheadAttention, TransformerEncoderLayer
from segkernel.nn.context_block import ContextBlock
from segkernel.nn.conv_module import ConvModule, DepthwiseSeparableConvModule
from segkernel.nn.decode_head import (
    CascadeDecodeHead,
    DecodeHead,
    DecodeHeadArguments,
    HeadArguments,
    MultiLevelHeadArguments,
)
from segkernel.nn.deform_conv import DeformConv2d, ModulatedDeformConv2d, deform_conv2d
from segkernel.nn.drop_path import DropPath, drop_path
from segkernel.nn.embed import (
    PatchEmbed,
    PatchMerging,
    fit_pos_embed,
    fit_position_table,
    nchw_to_nlc,
    nlc_to_nchw,
    resize_pos_embed,
)
from segkernel.nn.fit_weights import fit_shapes, match_classes
from segkernel.nn.init import kaiming_init, normal_init, trunc_normal_init
from segkernel.nn.inverted_residual import InvertedResidual, InvertedResidualV3
from segkernel.nn.layers import (
    LayerConfig,
    LayerConfigs,
    SyncBatchNorm2d,
    build_activation,
    build_conv,
    build_dropout,
    build_norm,
    build_plugin,
    build_upsample,
    make_divisible,
)
from segkernel.nn.losses import CrossEntropyLoss, PixelLoss, accuracy, class_factors, read_class_weight, reduce_loss
from segkernel.nn.non_local import NonLocal2d
from segkernel.nn.padding import AdaptivePadding, AdaptivePaddingConv2d
from segkernel.nn.pool import AdaptiveAvgPool2d, adaptive_avg_pool, adaptive_max_pool, is_tracing
from segkernel.nn.pyramid_pooling import PyramidPooling
from segkernel.nn.resize import resize
from segkernel.nn.sampler import OHEMPixelSampler, PixelSampler
from segkernel.nn.self_attention import SelfAttentionBlock
from segkernel.nn.squeeze import RSoftmax, SELayer

__all__ = [
    "FFN",
    "AdaptiveAvgPool2d",
    "AdaptivePadding",
    "AdaptivePaddingConv2d",
    "CascadeDecodeHead",
    "ContextBlock",
    "ConvModule",
    "CrossEntropyLoss",
    "DecodeHead",
    "DecodeHeadArguments",
    "DeformConv2d",
    "DepthwiseSeparableConvModule",
    "DotProductAttention",
    "DropPath",
    "HeadArguments",
    "InvertedResidual",
    "InvertedResidualV3",
    "LayerConfig",
    "LayerConfigs",
    "ModulatedDeformConv2d",
    "MultiLevelHeadArguments",
    "MultiheadAttention",
    "NonLocal2d",
    "OHEMPixelSampler",
    "PatchEmbed",
    "PatchMerging",
    "PixelLoss",
    "PixelSampler",
    "PyramidPooling",
    "RSoftmax",
    "SELayer",
    "SelfAttentionBlock",
    "SyncBatchNorm2d",
    "TransformerEncoderLayer",
    "accuracy",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "build_activation",
    "build_conv",
    "build_dropout",
    "build_norm",
    "build_plugin",
    "build_upsample",
    "class_factors",
    "deform_conv2d",
    "drop_path",
    "fit_pos_embed",
    "fit_position_table",
    "fit_shapes",
    "is_tracing",
    "kaiming_init",
    "make_divisible",
    "match_classes",
    "nchw_to_nlc",
    "nlc_to_nchw",
    "normal_init",
    "read_class_weight",
    "reduce_loss",
    "resize",
    "resize_pos_embed",
    "trunc_normal_init",
]
