"""Mask2Former: queries that attend, layer by layer, to the region of their own mask, in maps of several sizes.

Cheng, Misra, Schwing, Kirillov and Girdhar, Masked-attention Mask Transformer for Universal Image Segmentation, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Loss
from segkernel.interfaces.spec import Spec
from segkernel.nn import nchw_to_nlc, resize
from segplug_heads.heads.mask_queries import (
    NOTHING_IGNORED,
    MaskQueryHead,
    QueryTrainConfig,
    points_of,
    uncertain_mask_points,
)
from segplug_heads.losses.query_losses import QueryCrossEntropyLoss, QueryDiceLoss
from segplug_heads.parts.matching import (
    ClassificationCost,
    CrossEntropyLossCost,
    DiceCost,
    HungarianAssigner,
    Objects,
    Queries,
)
from segplug_heads.parts.pixel_decoder import (
    SINE_ENCODING,
    MSDeformAttnPixelDecoder,
    PixelDecoderBase,
    check_embed_dims,
    fan_in_init,
)
from segplug_heads.parts.query_transformer import DecoderConfig, MaskedDecoder, SineConfig, SinePositionalEncoding


class Mask2FormerHead(MaskQueryHead):
    """Feature maps, finest first -> scores (N, num_classes, h, w) at the size of the first, none negative.

    `predict` resizes masks to the image before it adds them up. Losses are ``loss_cls``, ``loss_mask`` and
    ``loss_dice`` of the last layer, ``d0.loss_cls`` ... of those before it, d0 being the queries as they start. Masks
    are compared at random points only.

    Args:
        in_channels: Channels of each map.
        feat_channels: Channels of the pixel decoder and the queries.
        out_channels: Channels of the mask features.
        num_classes: Number of classes.
        num_queries: Number of queries: masks that can be found in an image.
        num_transformer_feat_level: How many maps the queries read in turn.
        strides: Of each map; kept for configs that name them, as only the maps' sizes matter.
        in_index: Which feature maps are read; all for None.
        pixel_decoder: Makes the maps that are read and the mask features; `MSDeformAttnPixelDecoder` for None.
        enforce_decoder_input_project: Project what the queries read even when its channels are theirs.
        transformer_decoder: What the queries pass.
        positional_encoding: Where the cells are that the queries read.
        loss_cls: Of the classes; cross-entropy in which "no object", the last one, counts a tenth for None.
        loss_mask: Of the masks' points; cross-entropy times 5 for None.
        loss_dice: Of the masks' overlap; the Dice loss times 5 for None.
        train_cfg: How queries are matched with objects, and at how many points; by these costs at 12544 for None.
        test_cfg: Kept for configs that name it; nothing here reads it.
        align_corners: How scores are resized.
        ignore_index: The label that does not count.

    Raises:
        ConfigError: The decoders do not fit each other.
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
        in_channels: Sequence[int],
        feat_channels: int,
        out_channels: int,
        num_classes: int = 150,
        num_queries: int = 100,
        num_transformer_feat_level: int = 3,
        strides: Sequence[int] = (4, 8, 16, 32),
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
        ignore_index: int = 255,
    ) -> None:
        train = train_cfg or {}
        super().__init__(
            num_classes=num_classes,
            feat_channels=feat_channels,
            out_channels=out_channels,
            num_queries=num_queries,
            in_index=in_index,
            loss_cls=loss_cls or QueryCrossEntropyLoss(class_weight=[1.0] * num_classes + [0.1], loss_weight=2.0),
            loss_mask=loss_mask or QueryCrossEntropyLoss(use_sigmoid=True, loss_weight=5.0),
            loss_dice=loss_dice or QueryDiceLoss(naive_dice=True, eps=1.0, loss_weight=5.0),
            assigner=train.get("assigner") or _assigner(),
            sampler=train.get("sampler"),
            ignore_index=ignore_index,
            align_corners=align_corners,
        )
        self.in_channels, self.strides, self.test_cfg = list(in_channels), tuple(strides), test_cfg
        self.levels = num_transformer_feat_level
        self.num_points = train.get("num_points", 12544)
        self.point_ratios = train.get("oversample_ratio", 3.0), train.get("importance_sample_ratio", 0.75)
        self.pixel_decoder = (pixel_decoder or _pixel_decoder(self.levels))(
            in_channels=in_channels, feat_channels=feat_channels, out_channels=out_channels
        )
        self.transformer_decoder = MaskedDecoder(**transformer_decoder)
        self._build_inputs(feat_channels, enforce_decoder_input_project)
        self.decoder_positional_encoding = SinePositionalEncoding(**positional_encoding)
        self.query_embed = nn.Embedding(num_queries, feat_channels)
        self.query_feat = nn.Embedding(num_queries, feat_channels)

    def _build_inputs(self, feat_channels: int, enforce: bool) -> None:
        """Build what brings the memories to the queries' width."""
        check_embed_dims(self.transformer_decoder.embed_dims, feat_channels, "transformer_decoder")
        outs = getattr(self.pixel_decoder, "num_outs", self.levels)
        if outs < self.levels:
            message = f"gives {outs} maps, but the queries read {self.levels}"
            raise ConfigError(Problem(message, "pixel_decoder", hint="set its num_outs"))
        self.level_embed = nn.Embedding(self.levels, feat_channels)
        self.decoder_input_projs = nn.ModuleList(
            nn.Conv2d(feat_channels, feat_channels, 1) if enforce else nn.Identity() for _ in range(self.levels)
        )
        fan_in_init(self.decoder_input_projs)

    def queries(self, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        mask_features, memories = self.pixel_decoder(self.chosen(features))
        tokens, places, sizes = self._inputs(memories)
        batch = mask_features.shape[0]
        query = self.query_feat.weight.expand(batch, -1, -1)
        place = self.query_embed.weight.expand(batch, -1, -1)
        predictions = [self._predict(query, mask_features)]
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % self.levels
            allowed = _inside(predictions[-1][1], sizes[level])
            query = layer(query, place, tokens[level], places[level], allowed)
            predictions.append(self._predict(query, mask_features))
        return [scores for scores, _ in predictions], [masks for _, masks in predictions]

    def compared(self, scores: Tensor, masks: Tensor, objects: Objects) -> tuple[Queries, Objects]:
        return points_of(scores, masks, objects, self.num_points)

    def mask_losses(self, masks: Tensor, targets: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        seen, true = uncertain_mask_points(masks, targets, self.num_points, *self.point_ratios)
        loss_dice = self.loss_dice(seen, true, avg_factor=count)
        loss_mask = self.loss_mask(
            seen.flatten(), true.flatten(), ignore_index=NOTHING_IGNORED, avg_factor=count * self.num_points
        )
        return loss_mask, loss_dice

    def _inputs(self, memories: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """Return tokens (N, h * w, C), their positions and (h, w) of each memory."""
        maps = [project(x) for project, x in zip(self.decoder_input_projs, memories, strict=False)]
        tokens = [nchw_to_nlc(x) + level for x, level in zip(maps, self.level_embed.weight, strict=True)]
        places = [self.decoder_positional_encoding(x) for x in maps]
        return tokens, places, [(x.shape[2], x.shape[3]) for x in maps]

    def _predict(self, query: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        query = self.transformer_decoder.post_norm(query)
        masks = torch.einsum("nqc,nchw->nqhw", self.mask_embed(query), mask_features)
        return self.cls_embed(query), masks


def _inside(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the cells of a map that each query's mask (N, Q, h, w) covers, (N, 1, Q, H * W); all when it is empty."""
    covered = (resize(masks.detach(), size).sigmoid() >= 0.5).flatten(2)
    return (covered | ~covered.any(2, keepdim=True)).unsqueeze(1)


def _pixel_decoder(levels: int) -> Spec[MSDeformAttnPixelDecoder]:
    attention = {"num_levels": levels, "dropout": 0.0}
    return Spec(MSDeformAttnPixelDecoder, num_outs=levels, encoder={"layer_cfg": {"self_attn_cfg": attention}})


def _assigner() -> HungarianAssigner:
    return HungarianAssigner(
        [ClassificationCost(2.0), CrossEntropyLossCost(weight=5.0), DiceCost(pred_act=True, eps=1.0, weight=5.0)]
    )
