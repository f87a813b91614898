"""Region proposal network: which anchors hold an object, and where exactly it is.

Faster R-CNN, Ren et al., 2015 (https://arxiv.org/abs/1506.01497), section 3.1; on several feature maps with shared
weights: Feature Pyramid Networks, Lin et al., 2017 (https://arxiv.org/abs/1612.03144), section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Features
from segkernel.interfaces.spec import Spec
from segkernel.nn import normal_init
from segplug_instances.anchors import Anchors
from segplug_instances.boxes import decode, encode
from segplug_instances.conventions import ConventionName, convention_of
from segplug_instances.ground_truth import GroundTruth
from segplug_instances.layers import conv_sequence
from segplug_instances.losses import rpn_losses
from segplug_instances.matching import match_anchors, sample
from segplug_instances.proposals import select

Proposals = list[tuple[Tensor, Tensor]]
"""Boxes (n, 4) and objectness logits (n,) of each image, best first."""
BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


class RPN(nn.Module):
    """Feature maps to objectness logits (N, A, h, w) and box deltas (N, 4A, h, w) for A anchors at each position.

    Args:
        in_channels: Channels of the feature maps.
        strides: Pixels per position of each feature map.
        anchors: Sizes and ratios; sizes for as many maps as there are ``strides``.
        channels: Channels of the hidden layer; ``in_channels`` for None.
        num_convs: Convolutions of the hidden layer.
        softmax: Two logits for each anchor, first those of the background, (N, 2A, h, w).
        pre_nms: Most boxes of a level before NMS, in training and in inference.
        post_nms: Most boxes after NMS, in training and in inference.
        nms_threshold: IoU from which a proposal is dropped.
        min_size: Smallest side of a proposal in pixels.
        positive_iou: IoU with an object from which an anchor is positive.
        negative_iou: IoU below which it is negative; between the two it is not trained.
        batch_size_per_image: Anchors of an image that are trained.
        positive_fraction: Largest share of positive ones.
        beta: Difference at which smooth L1 changes from a square to a line; 0 is L1.
        convention: Rules of anchors, proposals and losses.
    """

    component_group: ClassVar[str] = "parts"

    def __init__(
        self,
        in_channels: PositiveInt = 256,
        strides: Sequence[PositiveInt] = (4, 8, 16, 32, 64),
        anchors: Spec[Anchors] | None = None,
        channels: PositiveInt | None = None,
        num_convs: PositiveInt = 1,
        softmax: bool = False,
        pre_nms: tuple[PositiveInt, PositiveInt] = (2000, 1000),
        post_nms: tuple[PositiveInt, PositiveInt] = (2000, 1000),
        nms_threshold: Probability = 0.7,
        min_size: NonNegative = 1e-3,
        positive_iou: Probability = 0.7,
        negative_iou: Probability = 0.3,
        batch_size_per_image: PositiveInt = 256,
        positive_fraction: Probability = 0.5,
        beta: NonNegative = 1 / 9,
        convention: ConventionName = "torchvision",
    ) -> None:
        super().__init__()
        self.anchors = (anchors or Spec(Anchors))(convention=convention)
        self.strides, self.convention = tuple(strides), convention_of(convention)
        if len(self.anchors.sizes) != len(self.strides):
            message = f"sizes for {len(self.anchors.sizes)} feature maps; there are {len(self.strides)}"
            raise ConfigError(Problem(message, "anchors.sizes"))
        self.softmax = softmax
        self.pre_nms, self.post_nms, self.nms_threshold, self.min_size = pre_nms, post_nms, nms_threshold, min_size
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.batch_size_per_image, self.positive_fraction, self.beta = batch_size_per_image, positive_fraction, beta
        channels = channels or in_channels
        self.convs = conv_sequence(in_channels, channels, num_convs)
        self.cls_logits = nn.Conv2d(channels, self.anchors.per_cell * (2 if softmax else 1), 1)
        self.bbox_pred = nn.Conv2d(channels, self.anchors.per_cell * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                normal_init(layer, std=0.01)

    def forward(self, features: Features) -> list[tuple[Tensor, Tensor]]:
        """Return the logits and the deltas of each feature map."""
        hidden = [self.convs(each) for each in features]
        return [(self.cls_logits(x), self.bbox_pred(x)) for x in hidden]

    def propose(
        self, features: Features, sizes: Sequence[Size], padded: Size, scales: Sequence[float] | None = None
    ) -> Proposals:
        """Return the proposals of each image.

        Args:
            features: One map for each of ``strides``.
            sizes: Height and width of each image, at whose border boxes are cut.
            padded: Height and width of the batch.
            scales: Side of each image divided by that before it was resized; 1 for None.
        """
        return self.select(self(features), self.place_anchors(features, padded), sizes, scales)

    def loss(
        self, features: Features, sizes: Sequence[Size], padded: Size, truths: Sequence[GroundTruth]
    ) -> tuple[dict[str, Tensor], Proposals]:
        """Return the losses, and the proposals, which have no gradient."""
        outputs, anchors = self(features), self.place_anchors(features, padded)
        with torch.no_grad():
            proposals = self.select(outputs, anchors, sizes)
            matches = [self.match(anchors, truth, size) for truth, size in zip(truths, sizes)]
            labels = torch.stack([self.draw(label, truth.generator) for truth, (_, label) in zip(truths, matches)])
            objects = [truth.boxes_of(index) for truth, (index, _) in zip(truths, matches)]
        return self.losses(outputs, anchors, labels, objects), proposals

    def place_anchors(self, features: Features, padded: Size) -> list[Tensor]:
        """Return the anchors (H * W * A, 4) of each feature map."""
        shapes = [(each.shape[2], each.shape[3]) for each in features]
        strides = [(stride, stride) for stride in self.strides]
        if self.convention.anchor_strides == "image":
            strides = [(padded[0] // height, padded[1] // width) for height, width in shapes]
        return [each.to(features[0].device) for each in self.anchors(shapes, strides)]

    def select(
        self,
        outputs: Sequence[tuple[Tensor, Tensor]],
        anchors: Sequence[Tensor],
        sizes: Sequence[Size],
        scales: Sequence[float] | None = None,
    ) -> Proposals:
        """Return the proposals of each image, from the outputs of `forward`."""
        logits, deltas = self._of_anchors(outputs)
        boxes = [
            torch.stack([decode(each, level, BOX_WEIGHTS, self.convention) for each in image])
            for image, level in zip(deltas, anchors)
        ]
        index = 0 if self.training else 1
        return select(
            logits,
            boxes,
            sizes,
            self.pre_nms[index],
            self.post_nms[index],
            self.nms_threshold,
            self.min_size,
            self.convention,
            self.training,
            scales,
        )

    def match(self, anchors: Sequence[Tensor], truth: GroundTruth, size: Size) -> tuple[Tensor, Tensor]:
        """Return the object (A,) of each anchor of an image, and what it may be trained as, (A,): 1, 0, -1 nothing."""
        limits = self.negative_iou, self.positive_iou
        return match_anchors(torch.cat(list(anchors)), truth.boxes, size, *limits, self.convention)

    def draw(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return labels (A,) of which only a random sample is not -1."""
        rules = self.convention.negatives_with_replacement, self.convention.scarce_negatives
        positive, negative = sample(labels, self.batch_size_per_image, self.positive_fraction, *rules, generator)
        chosen = torch.full_like(labels, -1)
        chosen[positive], chosen[negative] = 1, 0
        return chosen

    def losses(
        self,
        outputs: Sequence[tuple[Tensor, Tensor]],
        anchors: Sequence[Tensor],
        labels: Tensor,
        objects: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Return the losses of the outputs of `forward`.

        Args:
            outputs: Logits and deltas of each feature map.
            anchors: Anchors of each feature map.
            labels: (N, A), 1, 0 or -1, all feature maps one after the other.
            objects: Box of the object of each anchor, (A, 4) for each image; used where the label is 1.
        """
        logits, deltas = self._of_anchors(outputs)
        everywhere = torch.cat(list(anchors))
        targets = torch.stack([encode(boxes, everywhere, BOX_WEIGHTS, self.convention) for boxes in objects])
        classes, boxes = rpn_losses(
            logits, deltas, labels, targets, self.beta, self.batch_size_per_image, self.convention
        )
        return {"loss_rpn_cls": classes, "loss_rpn_bbox": boxes}

    def _of_anchors(self, outputs: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits (N, A) and deltas (N, A, 4) of the anchors of each feature map, in their order."""
        logits = []
        for each, _ in outputs:
            background, foreground = each.chunk(2, 1) if self.softmax else (0, each)
            logits.append((foreground - background).permute(0, 2, 3, 1).flatten(1))
        deltas = [each.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for _, each in outputs]
        return logits, deltas
