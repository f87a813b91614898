"""Shared code of query-based heads: label maps as objects, matching, and semantic inference.

Per-Pixel Classification is Not All You Need for Semantic Segmentation (MaskFormer), Cheng, Schwing and Kirillov, 2021
(https://arxiv.org/abs/2107.06278). Each of Q queries predicts a class, or that there is none, and a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Features, Head, Loss, PixelClasses
from segkernel.nn import LayerConfig, build_activation, mean_over_ranks, resize
from segkernel.sample import Targets
from segplug_heads.heads.point_sampling import PointSampling, sample_points, uncertain_points, uncertainty
from segplug_heads.losses.query_losses import QueryCrossEntropyLoss, QueryDiceLoss
from segplug_heads.parts.matching import (
    Assigner,
    ClassificationCost,
    CrossEntropyLossCost,
    DiceCost,
    HungarianAssigner,
    MatchSampler,
    Objects,
    Queries,
)

InferenceSize = Size | Literal["image", "masks"]
RELU: LayerConfig = {"type": "ReLU"}
NO_IGNORE = -1
"""The ``ignore_index`` of losses whose targets are all valid."""


class QueryTrainConfig(TypedDict, total=False):
    """Training settings of queries.

    Args:
        assigner: Matches queries with objects.
        sampler: Selects matches to train on; all by default.
        num_points: Points at which masks are compared, 12544 by default.
        oversample_ratio: Uniform candidates per point, 3 by default.
        importance_sample_ratio: Fraction of the points that are the most uncertain candidates, 0.75 by default.
    """

    assigner: Assigner
    sampler: MatchSampler
    num_points: PositiveInt
    oversample_ratio: Annotated[float, Ge(1)]
    importance_sample_ratio: Probability


@dataclass(frozen=True)
class QueryTargets:
    """The targets of a batch's queries.

    Args:
        labels: Class ids (N, Q), K for "no object".
        matched: Image and query of each match, (M,) each.
        masks: Mask of the object of each match, (M, H, W), 0 or 1.
    """

    labels: Tensor
    matched: tuple[Tensor, Tensor]
    masks: Tensor

    def mean_count(self) -> Tensor:
        """Return the number of matches to average over, as `global_mean_count` has it."""
        return global_mean_count(self.labels.new_tensor(len(self.masks), dtype=torch.float32))


def point_sampling_of(config: QueryTrainConfig) -> PointSampling:
    """Return how training points are drawn, with the defaults of Mask2Former."""
    return PointSampling(
        num_points=config.get("num_points", 12544),
        oversample_ratio=config.get("oversample_ratio", 3.0),
        importance_sample_ratio=config.get("importance_sample_ratio", 0.75),
    )


def objects_from_labels(labels: Tensor, ignore_index: int) -> Objects:
    """Return one object for each class of a label map (H, W)."""
    classes = labels.unique()
    classes = classes[classes != ignore_index]
    return Objects(classes, (labels == classes[:, None, None]).to(torch.float32))


def at_random_points(queries: Queries, objects: Objects, num_points: int) -> tuple[Queries, Objects]:
    """Return queries with masks (Q, h, w) and objects with masks (G, H, W) at the same uniform points, (., P)."""
    points = torch.rand(1, num_points, 2, device=queries.mask_logits.device)
    predicted, true = (sample_points(x.unsqueeze(0), points)[0] for x in (queries.mask_logits, objects.masks))
    return Queries(queries.class_logits, predicted), Objects(objects.labels, true)


def at_uncertain_points(mask_logits: Tensor, masks: Tensor, sampling: PointSampling) -> tuple[Tensor, Tensor]:
    """Return mask logits (M, h, w) and true masks (M, H, W) at points (M, P), mostly where the logits are near 0."""
    mask_logits, masks = mask_logits.unsqueeze(1), masks.unsqueeze(1)
    points = uncertain_points(mask_logits, uncertainty, sampling)
    return sample_points(mask_logits, points).squeeze(1), sample_points(masks, points).squeeze(1)


def semantic_inference(class_logits: Tensor, mask_logits: Tensor, size: Size | None = None) -> Tensor:
    """Return (N, K, H, W), the sum over queries of class probability times mask probability (section 3.4 of the paper).

    It is not normalised: not negative, but perhaps greater than 1. It has the ``size`` (H, W), or that of the masks.

    Args:
        class_logits: (N, Q, K + 1).
        mask_logits: (N, Q, h, w), resized before their probabilities are multiplied, as in the paper.
        size: (H, W).
    """
    if size is not None:
        mask_logits = resize(mask_logits, size)
    return torch.einsum("nqk,nqhw->nkhw", class_logits.softmax(-1)[..., :-1], mask_logits.sigmoid())


@torch.no_grad()
def match_queries(
    pairs: Iterable[tuple[Queries, Objects]],
    objects: Sequence[Objects],
    assigner: Assigner,
    sampler: MatchSampler | None,
    shape: tuple[int, int, int],
) -> QueryTargets:
    """Match the queries of a batch with its objects.

    Args:
        pairs: Queries and objects of each image, as the assigner compares them.
        objects: Objects of each image, with whole masks.
        assigner: Matches them.
        sampler: Selects matches to train on; None is all.
        shape: (N, Q, K).
    """
    batch, num_queries, num_classes = shape
    matches = [assigner.assign(*pair) for pair in pairs]
    matches = matches if sampler is None else [sampler.sample(found) for found in matches]
    labels = objects[0].labels.new_full((batch, num_queries), num_classes, dtype=torch.long)
    for row, found, (query, index) in zip(labels, objects, matches, strict=True):
        row[query] = found.labels[index].long()
    images = torch.cat([torch.full_like(query, image) for image, (query, _) in enumerate(matches)])
    masks = torch.cat([found.masks[index] for found, (_, index) in zip(objects, matches, strict=True)])
    return QueryTargets(labels, (images, torch.cat([query for query, _ in matches])), masks)


def default_assigner() -> HungarianAssigner:
    """Return the assigner of Mask2Former and SAN, whose costs correspond to their losses."""
    return HungarianAssigner(
        [ClassificationCost(2.0), CrossEntropyLossCost(weight=5.0), DiceCost(pred_act=True, eps=1.0, weight=5.0)]
    )


def global_mean_count(count: Tensor) -> Tensor:
    """Return ``count`` as `segkernel.nn.mean_over_ranks` has it, at least 1."""
    return mean_over_ranks(count).clamp(min=1)


class MaskQueryHead(Head):
    """Base of heads whose queries predict a class and a mask after each layer of a transformer decoder.

    Args:
        num_classes: Number of classes, K.
        feat_channels: Channels of the queries.
        out_channels: Channels of the mask features.
        num_queries: Number of queries, Q.
        in_index: Indices of the feature maps that are used; None is all.
        loss_cls: Loss of the classes; None is cross-entropy with a weight of 0.1 for "no object", the last class.
        loss_mask: Loss of the masks' pixels.
        loss_dice: Loss of the masks' overlap.
        assigner: Matches queries with objects.
        sampler: Selects matches to train on; None is all.
        ignore_index: Label that is ignored.
        align_corners: As in `segkernel.nn.resize`, for resizing the output.
        act_cfg: Type of the activations of the perceptron that makes a mask embedding of a query.
    """

    inference_size: InferenceSize = "image"
    """The size at which `semantic_inference` multiplies probabilities."""

    def __init__(
        self,
        *,
        num_classes: PositiveInt,
        feat_channels: PositiveInt,
        out_channels: PositiveInt,
        num_queries: PositiveInt,
        in_index: Sequence[int] | None,
        loss_cls: Loss | None,
        loss_mask: Loss,
        loss_dice: Loss,
        assigner: Assigner,
        sampler: MatchSampler | None,
        ignore_index: int,
        align_corners: bool,
        act_cfg: LayerConfig = RELU,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_queries, self.in_index = num_classes, num_queries, in_index
        self.ignore_index, self.align_corners = ignore_index, align_corners
        self.output = PixelClasses(num_classes, num_classes, "none", align_corners=align_corners)
        self.cls_embed = nn.Linear(feat_channels, num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(feat_channels, feat_channels),
            build_activation(act_cfg),
            nn.Linear(feat_channels, feat_channels),
            build_activation(act_cfg),
            nn.Linear(feat_channels, out_channels),
        )
        if loss_cls is None:
            loss_cls = QueryCrossEntropyLoss(class_weight=[1.0] * num_classes + [0.1])
        weight = getattr(loss_cls, "class_weight", None)
        if weight is not None and len(weight) != num_classes + 1:
            message = f"{len(weight)} numbers for {num_classes} classes and 'no object'"
            raise ConfigError(Problem(message, "loss_cls.class_weight"))
        self.loss_cls, self.loss_mask, self.loss_dice = loss_cls, loss_mask, loss_dice
        self.assigner, self.sampler = assigner, sampler

    def queries(self, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        """Return class logits (N, Q, K + 1) and mask logits (N, Q, h, w) after each layer."""
        raise NotImplementedError

    def prepare_for_matching(self, queries: Queries, objects: Objects) -> tuple[Queries, Objects]:
        """Return one image's queries and objects with masks of one size, or at the same points, for the assigner."""
        raise NotImplementedError

    def mask_losses(self, mask_logits: Tensor, masks: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``loss_mask`` and ``loss_dice``.

        Args:
            mask_logits: Mask logits of the matched queries, (M, h, w).
            masks: Masks of their objects, (M, H, W).
            count: Number of matches to average over.
        """
        raise NotImplementedError

    def last_queries(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return class logits and mask logits after the last layer."""
        class_logits, mask_logits = self.queries(features)
        return class_logits[-1], mask_logits[-1]

    def forward(self, features: Features) -> Tensor:
        """Return `semantic_inference` of the last layer at the size of the mask features, (N, K, h, w)."""
        return semantic_inference(*self.last_queries(features))

    def predict(self, features: Features, size: Size | None = None) -> Tensor:
        return self.scores(*self.last_queries(features), size)

    def scores(self, class_logits: Tensor, mask_logits: Tensor, size: Size | None) -> Tensor:
        """Return `semantic_inference` for images of ``size``, by ``inference_size`` at that size or another."""
        if self.inference_size != "image":
            size = None if self.inference_size == "masks" else self.inference_size
        return semantic_inference(class_logits, mask_logits, size)

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return self.single_pass(features, targets)[1]

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        layers = list(zip(*self.queries(features), strict=True))
        return self.scores(*layers[-1], size), self.layer_losses(layers, targets)

    def layer_losses(self, layers: Sequence[tuple[Tensor, Tensor]], targets: Targets) -> dict[str, Tensor]:
        """Return the losses of the class logits and mask logits after each layer."""
        objects = [objects_from_labels(labels, self.ignore_index) for labels in targets["seg"]]
        losses: dict[str, Tensor] = {}
        for i, (class_logits, mask_logits) in enumerate(layers):
            prefix = "" if i == len(layers) - 1 else f"d{i}."
            queries = map(Queries, class_logits, mask_logits)
            pairs = (self.prepare_for_matching(*image) for image in zip(queries, objects, strict=True))
            shape = (len(objects), self.num_queries, self.num_classes)
            matched = match_queries(pairs, objects, self.assigner, self.sampler, shape)
            named = self._losses(class_logits, mask_logits, matched)
            losses |= {f"{prefix}{name}": value for name, value in named.items()}
        return losses

    def select(self, features: Features) -> list[Tensor]:
        """Return the feature maps that are used."""
        return list(features) if self.in_index is None else [features[i] for i in self.in_index]

    def _losses(self, class_logits: Tensor, mask_logits: Tensor, targets: QueryTargets) -> dict[str, Tensor]:
        labels, matched = targets.labels.flatten(), mask_logits[targets.matched]
        loss_cls = self.loss_cls(
            class_logits.flatten(0, 1),
            labels,
            ignore_index=NO_IGNORE,
            avg_factor=self._class_count(class_logits, labels),
        )
        # On every process, matches or none: all must take part in the reduction.
        count = targets.mean_count()
        if len(matched):
            loss_mask, loss_dice = self.mask_losses(matched, targets.masks, count)
        else:
            loss_mask = loss_dice = matched.sum()  # 0, with a gradient
        return {"loss_cls": loss_cls, "loss_mask": loss_mask, "loss_dice": loss_dice}

    def _class_count(self, class_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the divisor of ``loss_cls``: the sum of the labels' class weights."""
        # Of this rank's labels alone, unlike the count of masks above: mmdetection's choice, kept so that losses agree.
        weight = getattr(self.loss_cls, "class_weight", None)
        if weight is None:
            return labels.new_tensor(len(labels), dtype=torch.float32)
        return class_logits.new_tensor(weight)[labels].sum()


class PointQueryHead(MaskQueryHead):
    """Base of heads whose masks are matched and learned at points, with Mask2Former's losses by default.

    Args:
        num_classes: Number of classes, K.
        loss_cls: Loss of the classes; None is cross-entropy times 2, with a weight of 0.1 for "no object".
        loss_mask: Loss of the masks' points; None is binary cross-entropy times 5.
        loss_dice: Loss of the masks' overlap; None is the Dice loss times 5.
        train_cfg: How queries are matched with objects, and at how many points; None is by the costs that correspond
            to these losses, at 12544 points.
        **kwargs: Arguments of `MaskQueryHead`.
    """

    def __init__(
        self,
        *,
        num_classes: PositiveInt,
        loss_cls: Loss | None,
        loss_mask: Loss | None,
        loss_dice: Loss | None,
        train_cfg: QueryTrainConfig | None,
        **kwargs: Any,
    ) -> None:
        train = train_cfg or {}
        super().__init__(
            num_classes=num_classes,
            loss_cls=loss_cls or QueryCrossEntropyLoss(class_weight=[1.0] * num_classes + [0.1], loss_weight=2.0),
            loss_mask=loss_mask or QueryCrossEntropyLoss(use_sigmoid=True, loss_weight=5.0),
            loss_dice=loss_dice or QueryDiceLoss(naive_dice=True, eps=1.0, loss_weight=5.0),
            assigner=train.get("assigner") or default_assigner(),
            sampler=train.get("sampler"),
            **kwargs,
        )
        self.point_sampling = point_sampling_of(train)

    def prepare_for_matching(self, queries: Queries, objects: Objects) -> tuple[Queries, Objects]:
        return at_random_points(queries, objects, self.point_sampling.num_points)

    def mask_losses(self, mask_logits: Tensor, masks: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        predicted, true = at_uncertain_points(mask_logits, masks, self.point_sampling)
        loss_dice = self.loss_dice(predicted, true, avg_factor=count)
        # mmdetection divides by objects times points; Dice is one number per object.
        points = count * self.point_sampling.num_points
        loss_mask = self.loss_mask(predicted.flatten(), true.flatten(), ignore_index=NO_IGNORE, avg_factor=points)
        return loss_mask, loss_dice
