"""Layers to build models from, and the base classes of backbones and decode heads. Importing it imports torch."""

from __future__ import annotations

from segkernel.nn.attention import (
    FFN,
    DotProductAttention,
    MultiheadAttention,
    TransformerEncoderLayer,
    single_head_attention,
)
from segkernel.nn.checkpointing import checkpoint_block, needs_grad
from segkernel.nn.context_block import ContextBlock
from segkernel.nn.conv_module import Concat, ConvModule, DepthwiseSeparableConvModule
from segkernel.nn.decode_head import (
    CascadeDecodeHead,
    DecodeHead,
    DecodeHeadArguments,
    HeadArguments,
    HeadOptions,
    MultiLevelHeadArguments,
)
from segkernel.nn.deform_conv import DeformConv2d, ModulatedDeformConv2d, deform_conv2d
from segkernel.nn.drop_path import DropPath, drop_path, linear_drop_path_rates
from segkernel.nn.embed import PatchEmbed, nchw_to_nlc, nlc_to_nchw, resize_pos_embed
from segkernel.nn.fit_weights import fit_shapes, match_classes
from segkernel.nn.init import kaiming_init, normal_init, trunc_normal_init
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
)
from segkernel.nn.losses import (
    ClassWeight,
    CrossEntropyLoss,
    PixelLoss,
    StridedLogits,
    accuracy,
    class_factors,
    read_class_weight,
    reduce_loss,
    sum_by_name,
)
from segkernel.nn.non_local import NonLocal2d
from segkernel.nn.padding import AdaptivePadding
from segkernel.nn.pool import AdaptiveAvgPool2d, adaptive_avg_pool, adaptive_max_pool, is_tracing
from segkernel.nn.pyramid_pooling import PyramidPooling
from segkernel.nn.ranks import kth_of_valid, mean_over_ranks, shares_batch
from segkernel.nn.resize import resize, upsample_logits
from segkernel.nn.sampler import OHEMPixelSampler, PixelSampler
from segkernel.nn.stages import FreezableBackbone, check_frozen_stages, check_out_indices, check_per_stage
from segkernel.nn.upsampled import upsample_cross_entropy

__all__ = ["FFN", "AdaptiveAvgPool2d", "AdaptivePadding", "CascadeDecodeHead",
           "ClassWeight", "Concat", "ContextBlock", "ConvModule", "CrossEntropyLoss", "DecodeHead",
           "DecodeHeadArguments", "DeformConv2d", "DepthwiseSeparableConvModule", "DotProductAttention", "DropPath",
           "FreezableBackbone", "HeadArguments", "HeadOptions", "LayerConfig", "LayerConfigs",
           "ModulatedDeformConv2d", "MultiLevelHeadArguments", "MultiheadAttention", "NonLocal2d",
           "OHEMPixelSampler", "PatchEmbed", "PixelLoss", "PixelSampler", "PyramidPooling", "StridedLogits",
           "SyncBatchNorm2d", "TransformerEncoderLayer", "accuracy", "adaptive_avg_pool", "adaptive_max_pool",
           "build_activation", "build_conv", "build_dropout", "build_norm", "build_plugin", "build_upsample",
           "check_frozen_stages", "check_out_indices", "check_per_stage", "checkpoint_block", "class_factors",
           "deform_conv2d", "drop_path", "fit_shapes", "is_tracing", "kaiming_init", "kth_of_valid",
           "linear_drop_path_rates", "match_classes", "mean_over_ranks", "nchw_to_nlc", "needs_grad",
           "nlc_to_nchw", "normal_init", "read_class_weight", "reduce_loss", "resize", "resize_pos_embed",
           "shares_batch", "single_head_attention", "sum_by_name", "trunc_normal_init",
           "upsample_cross_entropy", "upsample_logits"]  # fmt: skip
