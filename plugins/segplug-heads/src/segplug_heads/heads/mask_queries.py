"""What heads of queries share: label maps as objects, matching them, and masks with classes as scores of pixels.

Each of Q queries predicts a class, or that there is none, and a mask. A pixel's score for a class is the sum over the
queries of the class's probability times the mask's (Cheng et al., MaskFormer, 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Features, Head, Loss, PixelClasses
from segkernel.nn import resize
from segkernel.sample import Targets
from segplug_heads.heads.point_sampling import PointSampling, sample_points, uncertain_points
from segplug_heads.losses.query_losses import QueryCrossEntropyLoss
from segplug_heads.parts.matching import Assigner, MatchSampler, Objects, Queries

NOTHING_IGNORED = -1


class QueryTrainConfig(TypedDict, total=False):
    """How queries learn.

    Args:
        assigner: Matches them with objects.
        sampler: Chooses among the matches; all unless given.
        num_points: Points at which masks are compared.
        oversample_ratio: Candidates per point.
        importance_sample_ratio: Share of points that are the least sure candidates.
    """

    assigner: Assigner
    sampler: MatchSampler
    num_points: int
    oversample_ratio: float
    importance_sample_ratio: float


@dataclass(frozen=True)
class QueryTargets:
    """What the queries of a batch have to learn.

    Args:
        labels: Class ids (N, Q), K for no object.
        matched: Image and query of each match, (M,) each.
        masks: The object's mask of each match, (M, H, W), 0 or 1.
    """

    labels: Tensor
    matched: tuple[Tensor, Tensor]
    masks: Tensor

    def count(self) -> Tensor:
        """Return the number of matches for a mean over them."""
        return divisor(self.labels.new_tensor(len(self.masks), dtype=torch.float32))


def objects_in(labels: Tensor, ignore_index: int) -> Objects:
    """Return the classes of a label map (H, W) as objects."""
    classes = labels.unique()
    classes = classes[classes != ignore_index]
    return Objects(classes, (labels == classes[:, None, None]).to(torch.float32))


def points_of(scores: Tensor, masks: Tensor, objects: Objects, num_points: int) -> tuple[Queries, Objects]:
    """Return one image's queries, masks (Q, h, w), and objects as seen at the same random points."""
    points = torch.rand(1, num_points, 2, device=masks.device)
    seen, true = (sample_points(x.unsqueeze(0), points)[0] for x in (masks, objects.masks))
    return Queries(scores, seen), Objects(objects.labels, true)


def uncertain_mask_points(
    masks: Tensor, targets: Tensor, num_points: int, oversample_ratio: float, importance_sample_ratio: float
) -> tuple[Tensor, Tensor]:
    """Return masks (M, h, w) and targets (M, H, W) at points (M, P) that are mostly where the masks are near 0."""
    masks, targets = masks.unsqueeze(1), targets.unsqueeze(1)
    sampling = PointSampling(num_points, oversample_ratio, importance_sample_ratio)
    points = uncertain_points(masks, _doubt, sampling)
    return sample_points(masks, points).squeeze(1), sample_points(targets, points).squeeze(1)


def pixel_scores(class_scores: Tensor, masks: Tensor) -> Tensor:
    """Return scores (N, K, H, W) from class scores (N, Q, K + 1) and masks (N, Q, H, W)."""
    return torch.einsum("nqk,nqhw->nkhw", class_scores.softmax(-1)[..., :-1], masks.sigmoid())


@torch.no_grad()
def match(
    compared: Iterable[tuple[Queries, Objects]],
    objects: Sequence[Objects],
    assigner: Assigner,
    sampler: MatchSampler | None,
    shape: tuple[int, int, int],
) -> QueryTargets:
    """Match the queries of a batch with its objects.

    Args:
        compared: Queries and objects of each image, as the assigner is to see them.
        objects: Those of each image, with whole masks.
        assigner: Matches them.
        sampler: Chooses among the matches; all for None.
        shape: (N, Q, K).
    """
    batch, count, classes = shape
    matches = [assigner.assign(*image) for image in compared]
    matches = matches if sampler is None else [sampler.sample(found) for found in matches]
    labels = objects[0].labels.new_full((batch, count), classes, dtype=torch.long)
    for row, found, (query, index) in zip(labels, objects, matches, strict=True):
        row[query] = found.labels[index].long()
    images = torch.cat([torch.full_like(query, image) for image, (query, _) in enumerate(matches)])
    masks = torch.cat([found.masks[index] for found, (_, index) in zip(objects, matches, strict=True)])
    return QueryTargets(labels, (images, torch.cat([query for query, _ in matches])), masks)


def divisor(count: Tensor) -> Tensor:
    """Return ``count``, averaged over the processes that train together, 1 at least."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return count.clamp(min=1)


def _doubt(scores: Tensor) -> Tensor:
    return -scores[:, 0].abs()


class MaskQueryHead(Head):
    """Base of heads whose queries predict a class and a mask after each layer of a transformer.

    Args:
        num_classes: Number of classes.
        feat_channels: Channels of the queries.
        out_channels: Channels of the mask features.
        num_queries: Number of queries.
        in_index: Which feature maps are read; all for None.
        loss_cls: Of the classes; "no object", the last one, counts a tenth unless given.
        loss_mask: Of the masks' pixels.
        loss_dice: Of the masks' overlap.
        assigner: Matches queries with objects.
        sampler: Chooses among the matches; all for None.
        ignore_index: The label that does not count.
        align_corners: How scores are resized.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        feat_channels: int,
        out_channels: int,
        num_queries: int,
        in_index: Sequence[int] | None,
        loss_cls: Loss | None,
        loss_mask: Loss,
        loss_dice: Loss,
        assigner: Assigner,
        sampler: MatchSampler | None,
        ignore_index: int,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_queries, self.in_index = num_classes, num_queries, in_index
        self.ignore_index, self.align_corners = ignore_index, align_corners
        self.output = PixelClasses(num_classes, num_classes, "none", align_corners=align_corners)
        self.cls_embed = nn.Linear(feat_channels, num_classes + 1)
        widths = [feat_channels] * 3
        hidden = [layer for width in widths[1:] for layer in (nn.Linear(feat_channels, width), nn.ReLU(inplace=True))]
        self.mask_embed = nn.Sequential(*hidden, nn.Linear(feat_channels, out_channels))
        if loss_cls is None:
            loss_cls = QueryCrossEntropyLoss(class_weight=[1.0] * num_classes + [0.1])
        self.loss_cls, self.loss_mask, self.loss_dice = loss_cls, loss_mask, loss_dice
        self.assigner, self.sampler = assigner, sampler

    def queries(self, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        """Return class scores (N, Q, K + 1) and masks (N, Q, h, w) after each layer, the last ones last."""
        raise NotImplementedError

    def compared(self, scores: Tensor, masks: Tensor, objects: Objects) -> tuple[Queries, Objects]:
        """Return one image's queries and objects as the assigner is to see them."""
        raise NotImplementedError

    def mask_losses(self, masks: Tensor, targets: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``loss_mask`` and ``loss_dice`` of matched masks (M, h, w) against (M, H, W), means over ``count``."""
        raise NotImplementedError

    def final(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return the last of `queries`."""
        scores, masks = self.queries(features)
        return scores[-1], masks[-1]

    def forward(self, features: Features) -> Tensor:
        """Return scores (N, K, h, w), not negative, at the size of the mask features."""
        return pixel_scores(*self.final(features))

    def predict(self, features: Features, size: tuple[int, int] | None = None) -> Tensor:
        scores, masks = self.final(features)
        return pixel_scores(scores, masks if size is None else resize(masks, size))

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return self.single_pass(features, targets)[1]

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        objects = [objects_in(labels, self.ignore_index) for labels in targets["seg"]]
        layers = list(zip(*self.queries(features), strict=True))
        named = {}
        for i, (scores, masks) in enumerate(layers):
            prefix = "" if i == len(layers) - 1 else f"d{i}."
            compared = (self.compared(*image) for image in zip(scores, masks, objects, strict=True))
            wanted = match(compared, objects, self.assigner, self.sampler, (*scores.shape[:2], self.num_classes))
            losses = self._losses(scores, masks, wanted)
            named |= {f"{prefix}{name}": value for name, value in losses.items()}
        scores, masks = layers[-1]
        return pixel_scores(scores, masks if size is None else resize(masks, size)), named

    def chosen(self, features: Features) -> list[Tensor]:
        """Return the feature maps that are read."""
        return list(features) if self.in_index is None else [features[i] for i in self.in_index]

    def _losses(self, scores: Tensor, masks: Tensor, targets: QueryTargets) -> dict[str, Tensor]:
        labels, matched = targets.labels.flatten(), masks[targets.matched]
        count = targets.count()
        loss_cls = self.loss_cls(
            scores.flatten(0, 1), labels, ignore_index=NOTHING_IGNORED, avg_factor=self._class_count(scores, labels)
        )
        if len(matched):
            loss_mask, loss_dice = self.mask_losses(matched, targets.masks, count)
        else:
            loss_mask = loss_dice = matched.sum()  # 0, with a gradient
        return {"loss_cls": loss_cls, "loss_mask": loss_mask, "loss_dice": loss_dice}

    def _class_count(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return what the mean of ``loss_cls`` divides by: the labels, counted by the weight of their class."""
        weight = getattr(self.loss_cls, "class_weight", None)
        if weight is None:
            return labels.new_tensor(len(labels), dtype=torch.float32)
        if len(weight) != self.num_classes + 1:
            message = f"{len(weight)} numbers for {self.num_classes} classes and 'no object'"
            raise ConfigError(Problem(message, "loss_cls.class_weight"))
        return scores.new_tensor(weight)[labels].sum()
