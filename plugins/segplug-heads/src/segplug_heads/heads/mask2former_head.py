"""Mask2Former: queries that attend to the foreground of their own masks, in multi-scale features.

Masked-attention Mask Transformer for Universal Image Segmentation, Cheng, Misra, Schwing, Kirillov and Girdhar, 2022
(https://arxiv.org/abs/2112.01527).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Required, TypedDict

from segkernel.annotations import LabelId, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Features, Loss
from segkernel.interfaces.spec import Spec
from segkernel.nn import nchw_to_nlc, resize
from segplug_heads.heads.mask_queries import InferenceSize, PointQueryHead, QueryTrainConfig
from segplug_heads.parts.pixel_decoder import (
    SINE_ENCODING,
    MSDeformAttnPixelDecoder,
    PixelDecoderBase,
    check_embed_dims,
    fan_in_init,
)
from segplug_heads.parts.query_transformer import DecoderConfig, MaskedDecoder, SineConfig, SinePositionalEncoding


class Mask2FormerArguments(TypedDict, total=False):
    """The arguments of `Mask2FormerHead`, for heads that pass them on."""

    in_channels: Required[Sequence[PositiveInt]]
    feat_channels: Required[PositiveInt]
    out_channels: Required[PositiveInt]
    num_classes: PositiveInt
    num_queries: PositiveInt
    num_transformer_feat_level: PositiveInt
    strides: Sequence[PositiveInt]
    in_index: Sequence[int] | None
    pixel_decoder: Spec[PixelDecoderBase] | None
    enforce_decoder_input_project: bool
    transformer_decoder: DecoderConfig
    positional_encoding: SineConfig
    loss_cls: Loss | None
    loss_mask: Loss | None
    loss_dice: Loss | None
    train_cfg: QueryTrainConfig | None
    test_cfg: dict[str, Any] | None
    align_corners: bool
    ignore_index: LabelId
    inference_size: InferenceSize


class Mask2FormerHead(PointQueryHead):
    """Feature maps, finest first -> (N, num_classes, h, w) at the size of the first, as `semantic_inference` has it.

    The losses are ``loss_cls``, ``loss_mask`` and ``loss_dice`` of the last layer, and ``d0.loss_cls`` and so on of
    those before it, d0 being the initial queries. Masks are compared at sampled points only.

    Args:
        in_channels: Channels of each map.
        feat_channels: Channels of the pixel decoder and the queries.
        out_channels: Channels of the mask features.
        num_classes: Number of classes.
        num_queries: Number of queries, the most masks that can be found in an image.
        num_transformer_feat_level: Number of memories; the layers attend to one each, in turn.
        strides: Stride of each map; not used, accepted for existing configs, as only the sizes of maps matter.
        in_index: Indices of the feature maps that are used; None is all.
        pixel_decoder: Computes mask features and memories; None is `MSDeformAttnPixelDecoder`.
        enforce_decoder_input_project: Project the memories even though they have the queries' channels.
        transformer_decoder: Arguments of the `MaskedDecoder`.
        positional_encoding: Arguments of the `SinePositionalEncoding` of the memories.
        loss_cls: Loss of the classes; None is cross-entropy times 2, with a weight of 0.1 for "no object", the last
            class.
        loss_mask: Loss of the masks' points; None is binary cross-entropy times 5.
        loss_dice: Loss of the masks' overlap; None is the Dice loss times 5.
        train_cfg: How queries are matched with objects, and at how many points; None is by the costs that correspond
            to these losses, at 12544 points.
        test_cfg: Not used, accepted for existing configs.
        align_corners: As in `segkernel.nn.resize`, for resizing the output.
        ignore_index: Label that is ignored.
        inference_size: Size at which probabilities of classes and masks are multiplied: ``image``, that of the input of
            the network, as in the paper; ``masks``, that of the mask logits; or (height, width).

    Raises:
        ConfigError: The pixel decoder and the transformer decoder do not fit together.
    """

    conformance: ClassVar = {
        "in_channels": [8, 16, 24],
        "feat_channels": 16,
        "out_channels": 8,
        "num_classes": 4,
        "num_queries": 6,
        "num_transformer_feat_level": 2,
        "pixel_decoder": {
            "type": "MSDeformAttnPixelDecoder",
            "num_outs": 2,
            "norm_cfg": {"type": "GN", "num_groups": 4},
            "encoder": {
                "num_layers": 1,
                "layer_cfg": {
                    "self_attn_cfg": {"embed_dims": 16, "num_heads": 2, "num_levels": 2, "num_points": 2},
                    "ffn_cfg": {"embed_dims": 16, "feedforward_channels": 16},
                },
            },
            "positional_encoding": {"num_feats": 8, "normalize": True},
        },
        "positional_encoding": {"num_feats": 8, "normalize": True},
        "transformer_decoder": {
            "num_layers": 2,
            "layer_cfg": {
                "self_attn_cfg": {"embed_dims": 16, "num_heads": 2},
                "cross_attn_cfg": {"embed_dims": 16, "num_heads": 2},
                "ffn_cfg": {"embed_dims": 16, "feedforward_channels": 16},
            },
        },
        "train_cfg": {
            "num_points": 64,
            "assigner": {"type": "HungarianAssigner", "match_costs": [{"type": "ClassificationCost"}]},
        },
    }

    def __init__(
        self,
        in_channels: Sequence[PositiveInt],
        feat_channels: PositiveInt,
        out_channels: PositiveInt,
        num_classes: PositiveInt = 150,
        num_queries: PositiveInt = 100,
        num_transformer_feat_level: PositiveInt = 3,
        strides: Sequence[PositiveInt] = (4, 8, 16, 32),
        in_index: Sequence[int] | None = None,
        pixel_decoder: Spec[PixelDecoderBase] | None = None,
        enforce_decoder_input_project: bool = False,
        transformer_decoder: DecoderConfig = {"num_layers": 9},  # noqa: B006  never changed
        positional_encoding: SineConfig = SINE_ENCODING,
        loss_cls: Loss | None = None,
        loss_mask: Loss | None = None,
        loss_dice: Loss | None = None,
        train_cfg: QueryTrainConfig | None = None,
        test_cfg: dict[str, Any] | None = None,
        align_corners: bool = False,
        ignore_index: LabelId = 255,
        inference_size: InferenceSize = "image",
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            feat_channels=feat_channels,
            out_channels=out_channels,
            num_queries=num_queries,
            in_index=in_index,
            loss_cls=loss_cls,
            loss_mask=loss_mask,
            loss_dice=loss_dice,
            train_cfg=train_cfg,
            ignore_index=ignore_index,
            align_corners=align_corners,
        )
        self.in_channels, self.strides, self.test_cfg = list(in_channels), tuple(strides), test_cfg
        self.num_levels, self.inference_size = num_transformer_feat_level, inference_size
        self.pixel_decoder = (pixel_decoder or _pixel_decoder(self.num_levels))(
            in_channels=in_channels, feat_channels=feat_channels, out_channels=out_channels
        )
        self.transformer_decoder = MaskedDecoder(**transformer_decoder)
        self._build_memory_inputs(feat_channels, enforce_decoder_input_project)
        self.decoder_positional_encoding = SinePositionalEncoding(**positional_encoding)
        self.query_embed = nn.Embedding(num_queries, feat_channels)
        self.query_feat = nn.Embedding(num_queries, feat_channels)

    def _build_memory_inputs(self, feat_channels: int, project: bool) -> None:
        """Build the projections and level embeddings of the memories."""
        check_embed_dims(self.transformer_decoder.embed_dims, feat_channels, "transformer_decoder")
        outs = getattr(self.pixel_decoder, "num_outs", self.num_levels)
        if outs < self.num_levels:
            message = f"gives {outs} memories, but the queries attend to {self.num_levels}"
            raise ConfigError(Problem(message, "pixel_decoder", hint="set its num_outs"))
        self.level_embed = nn.Embedding(self.num_levels, feat_channels)
        self.decoder_input_projs = nn.ModuleList(
            nn.Conv2d(feat_channels, feat_channels, 1) if project else nn.Identity() for _ in range(self.num_levels)
        )
        fan_in_init(self.decoder_input_projs)

    def queries(self, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        mask_features, memories = self.pixel_decoder(self.select(features))
        return self.decode(self.initial_queries(mask_features), mask_features, memories)

    def initial_queries(self, mask_features: Tensor) -> Tensor:
        """Return the queries before the first layer, (N, Q, C)."""
        return self.query_feat.weight.expand(mask_features.shape[0], -1, -1)

    def decode(
        self, query: Tensor, mask_features: Tensor, memories: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return class logits and mask logits of the queries (N, Q, C) before the first layer and after each one."""
        memory, memory_pos, sizes = self._memory_inputs(memories)
        query_pos = self.query_embed.weight.expand(mask_features.shape[0], -1, -1)
        predictions = [self._predict_queries(query, mask_features)]
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % self.num_levels
            _, mask_logits = predictions[-1]
            attn_mask = _foreground_mask(mask_logits, sizes[level])
            # The mask of the prediction before, without a gradient: equation 2 adds it to the logits of the attention.
            query = layer(query, query_pos, memory[level], memory_pos[level], attn_mask)
            predictions.append(self._predict_queries(query, mask_features))
        return [class_logits for class_logits, _ in predictions], [mask_logits for _, mask_logits in predictions]

    def _memory_inputs(self, memories: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Size]]:
        """Return tokens (N, h * w, C), position encodings (1, h * w, C) and size (h, w) of each memory."""
        maps = [project(x) for project, x in zip(self.decoder_input_projs, memories, strict=False)]
        tokens = [nchw_to_nlc(x) + level for x, level in zip(maps, self.level_embed.weight, strict=True)]
        positions = [self.decoder_positional_encoding(x) for x in maps]
        return tokens, positions, [(x.shape[2], x.shape[3]) for x in maps]

    def _predict_queries(self, query: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (N, Q, K + 1) and mask logits (N, Q, h, w) of queries (N, Q, C)."""
        query = self.transformer_decoder.post_norm(query)
        mask_logits = torch.einsum("nqc,nchw->nqhw", self.mask_embed(query), mask_features)
        return self.cls_embed(query), mask_logits


def _foreground_mask(mask_logits: Tensor, size: Size) -> Tensor:
    """Return the attention mask (N, 1, Q, h * w), true where each query's mask is foreground (equation 3 of the paper).

    A query with an empty mask attends to the whole memory: a softmax over nothing has no value.
    """
    foreground = (resize(mask_logits.detach(), size).sigmoid() >= 0.5).flatten(2)
    return (foreground | ~foreground.any(2, keepdim=True)).unsqueeze(1)


def _pixel_decoder(levels: int) -> Spec[MSDeformAttnPixelDecoder]:
    attention = {"num_levels": levels, "dropout": 0.0}
    return Spec(MSDeformAttnPixelDecoder, num_outs=levels, encoder={"layer_cfg": {"self_attn_cfg": attention}})
