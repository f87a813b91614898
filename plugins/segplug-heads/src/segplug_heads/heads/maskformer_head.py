"""MaskFormer: the queries of a transformer predict masks with a class each, instead of a class for each pixel.

Per-Pixel Classification is Not All You Need for Semantic Segmentation, Cheng, Schwing and Kirillov, 2021
(https://arxiv.org/abs/2107.06278).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import LabelId, PositiveInt
from segkernel.interfaces.model import Features, Loss
from segkernel.interfaces.spec import Spec
from segkernel.nn import nchw_to_nlc, resize
from segplug_heads.heads.mask_queries import MaskQueryHead, QueryTrainConfig
from segplug_heads.losses.query_losses import QueryDiceLoss, QueryFocalLoss
from segplug_heads.parts.matching import (
    ClassificationCost,
    DiceCost,
    FocalLossCost,
    HungarianAssigner,
    Objects,
    Queries,
)
from segplug_heads.parts.pixel_decoder import SINE_ENCODING, PixelDecoder, PixelDecoderBase, fan_in_init
from segplug_heads.parts.query_transformer import Decoder, DecoderConfig, SineConfig, SinePositionalEncoding


class MaskFormerHead(MaskQueryHead):
    """Feature maps, finest first -> (N, num_classes, h, w) at the size of the first, as `semantic_inference` has it.

    The losses are ``loss_cls``, ``loss_mask`` and ``loss_dice`` of the last layer, and ``d0.loss_cls`` and so on of
    the layers before it.

    Args:
        in_channels: Channels of each map.
        feat_channels: Channels of the pixel decoder and the queries.
        out_channels: Channels of the mask features.
        num_classes: Number of classes.
        num_queries: Number of queries, the most masks that can be found in an image.
        in_index: Indices of the feature maps that are used; None is all.
        pixel_decoder: Computes mask features and memory; None is `PixelDecoder`.
        enforce_decoder_input_project: Project the memory of a `PixelDecoder` even if it has the queries' channels.
        transformer_decoder: Arguments of the `Decoder`.
        positional_encoding: Arguments of the `SinePositionalEncoding` of the memory.
        loss_cls: Loss of the classes; None is cross-entropy with a weight of 0.1 for "no object", the last class.
        loss_mask: Loss of the masks' pixels; None is the focal loss with a weight of 20.
        loss_dice: Loss of the masks' overlap; None is the Dice loss.
        train_cfg: How queries are matched with objects; None is by the costs that correspond to these losses.
        test_cfg: Not used, accepted for existing configs.
        align_corners: As in `segkernel.nn.resize`, for resizing the output.
        ignore_index: Label that is ignored.
    """

    conformance: ClassVar = {
        "in_channels": [8, 16, 24],
        "feat_channels": 16,
        "out_channels": 8,
        "num_classes": 4,
        "num_queries": 6,
        "pixel_decoder": {"type": "PixelDecoder", "norm_cfg": {"type": "GN", "num_groups": 4}},
        "positional_encoding": {"num_feats": 8, "normalize": True},
        "transformer_decoder": {
            "num_layers": 2,
            "layer_cfg": {
                "self_attn_cfg": {"embed_dims": 16, "num_heads": 2},
                "cross_attn_cfg": {"embed_dims": 16, "num_heads": 2},
                "ffn_cfg": {"embed_dims": 16, "feedforward_channels": 16},
            },
        },
    }

    def __init__(
        self,
        in_channels: Sequence[PositiveInt],
        feat_channels: PositiveInt,
        out_channels: PositiveInt,
        num_classes: PositiveInt = 150,
        num_queries: PositiveInt = 100,
        in_index: Sequence[int] | None = None,
        pixel_decoder: Spec[PixelDecoderBase] | None = None,
        enforce_decoder_input_project: bool = False,
        transformer_decoder: DecoderConfig = {},  # noqa: B006  never changed
        positional_encoding: SineConfig = SINE_ENCODING,
        loss_cls: Loss | None = None,
        loss_mask: Loss | None = None,
        loss_dice: Loss | None = None,
        train_cfg: QueryTrainConfig | None = None,
        test_cfg: dict[str, Any] | None = None,
        align_corners: bool = False,
        ignore_index: LabelId = 255,
    ) -> None:
        train = train_cfg or {}
        super().__init__(
            num_classes=num_classes,
            feat_channels=feat_channels,
            out_channels=out_channels,
            num_queries=num_queries,
            in_index=in_index,
            loss_cls=loss_cls,
            loss_mask=loss_mask or QueryFocalLoss(loss_weight=20.0),
            loss_dice=loss_dice or QueryDiceLoss(naive_dice=True, eps=1.0),
            assigner=train.get("assigner") or _assigner(),
            sampler=train.get("sampler"),
            ignore_index=ignore_index,
            align_corners=align_corners,
        )
        self.in_channels, self.test_cfg = list(in_channels), test_cfg
        self.pixel_decoder = (pixel_decoder or Spec(PixelDecoder))(
            in_channels=in_channels, feat_channels=feat_channels, out_channels=out_channels
        )
        self.transformer_decoder = Decoder(**transformer_decoder)
        embed_dims, memory_channels = self.transformer_decoder.embed_dims, self.pixel_decoder.memory_channels
        # As in mmdetection, only the plain pixel decoder can be made to project its memory.
        enforce = enforce_decoder_input_project and type(self.pixel_decoder) is PixelDecoder
        self.decoder_input_proj: nn.Module = nn.Identity()
        if enforce or memory_channels != embed_dims:
            self.decoder_input_proj = nn.Conv2d(memory_channels, embed_dims, 1)
        fan_in_init(self.decoder_input_proj)
        self.decoder_pe = SinePositionalEncoding(**positional_encoding)
        self.query_embed = nn.Embedding(num_queries, feat_channels)

    def queries(self, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        mask_features, outputs = self._decode(features)
        return [self.cls_embed(x) for x in outputs], [self._mask_logits(x, mask_features) for x in outputs]

    def last_queries(self, features: Features) -> tuple[Tensor, Tensor]:
        mask_features, outputs = self._decode(features)
        return self.cls_embed(outputs[-1]), self._mask_logits(outputs[-1], mask_features)

    def prepare_for_matching(self, queries: Queries, objects: Objects) -> tuple[Queries, Objects]:
        if not len(objects.labels):
            return queries, objects
        size = queries.mask_logits.shape[1:]
        true = resize(objects.masks.unsqueeze(1), size, mode="nearest").squeeze(1)
        return queries, Objects(objects.labels, true)

    def mask_losses(self, mask_logits: Tensor, masks: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        mask_logits = resize(mask_logits.unsqueeze(1), masks.shape[1:]).squeeze(1)
        pixels = count * masks[0].numel()
        background = (1 - masks.flatten()).long()  # the focal loss takes class ids; 0, its one class, is the mask
        loss_mask = self.loss_mask(mask_logits.reshape(-1, 1), background, avg_factor=pixels)
        return loss_mask, self.loss_dice(mask_logits, masks, avg_factor=count)

    def _decode(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        """Return the mask features (N, out_channels, h, w), and the queries (N, Q, C) after each layer."""
        mask_features, memories = self.pixel_decoder(self.select(features))
        memory = self.decoder_input_proj(memories[0])
        query_pos = self.query_embed.weight.expand(memory.shape[0], -1, -1)
        # Queries start at zero, as in DETR: only their position embedding is learnt.
        outputs = self.transformer_decoder(
            torch.zeros_like(query_pos), query_pos, nchw_to_nlc(memory), self.decoder_pe(memory)
        )
        return mask_features, outputs

    def _mask_logits(self, query: Tensor, mask_features: Tensor) -> Tensor:
        """Return the products of mask embeddings and per-pixel features, (N, Q, h, w)."""
        return torch.einsum("nqc,nchw->nqhw", self.mask_embed(query), mask_features)


def _assigner() -> HungarianAssigner:
    return HungarianAssigner(
        [ClassificationCost(1.0), FocalLossCost(binary_input=True, weight=20.0), DiceCost(pred_act=True, eps=1.0)]
    )
