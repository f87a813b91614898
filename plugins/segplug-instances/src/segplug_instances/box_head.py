"""Box heads: the class of each proposal, and a better box for it.

Fast R-CNN, Girshick, 2015 (https://arxiv.org/abs/1504.08083); with a perceptron: Feature Pyramid Networks, Lin et al.,
2017 (https://arxiv.org/abs/1612.03144); with a stage of a ResNet: Deep Residual Learning, He et al., 2016
(https://arxiv.org/abs/1512.03385), appendix A.

A detector calls `BoxHead.predict` and `BoxHead.loss`. A head of another kind, such as a cascade, overrides these two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict, Unpack

from segkernel.annotations import NonNegative, NonNegativeInt, PositiveInt, Probability
from segkernel.interfaces.model import Features
from segkernel.interfaces.spec import Spec
from segkernel.nn import normal_init
from segplug_instances.boxes import area, decode, encode, intersection, iou
from segplug_instances.conventions import ConventionName, convention_of
from segplug_instances.ground_truth import GroundTruth
from segplug_instances.layers import conv_sequence
from segplug_instances.losses import accuracy, box_losses
from segplug_instances.matching import boxes_at_once, match, sample
from segplug_instances.proposals import add_ground_truth
from segplug_instances.resnet import Style, residual_stage
from segplug_instances.roi import RoIPooler, by_image
from segplug_instances.rpn import Proposals


@dataclass
class Samples:
    """Boxes that the heads are trained on.

    Attributes:
        boxes: (n, 4) for each image.
        labels: Class (n,) int64 of each box, for each image; the number of classes is background.
        index: Object (n,) int64 that each box matches, for each image; of any value for background.
        features: Output of the box head's trunk for all boxes (sum of n, C, h, w), for heads that share it.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    index: list[Tensor]
    features: Tensor | None = None

    def foreground(self, num_classes: int) -> Samples:
        """Return the boxes with an object."""
        rows = [labels < num_classes for labels in self.labels]
        features = None if self.features is None else self.features[torch.cat(rows)]
        boxes, labels, index = ([value[row] for value, row in zip(values, rows)]
                                for values in (self.boxes, self.labels, self.index))  # fmt: skip
        return Samples(boxes, labels, index, features)


class BoxHeadArguments(TypedDict, total=False):
    """Arguments of all box heads."""

    num_classes: PositiveInt
    strides: Sequence[PositiveInt]
    class_agnostic: bool
    box_weights: tuple[float, float, float, float]
    positive_iou: Probability
    negative_iou: tuple[Probability, Probability]
    batch_size_per_image: PositiveInt
    positive_fraction: Probability
    crowd_overlap: Probability | None
    beta: NonNegative
    convention: ConventionName


class BoxHead(nn.Module):
    """Features of boxes (R, C, h, w) to logits (R, num_classes + 1), background last, and deltas (R, 4 * num_classes).

    A subclass implements `trunk`.

    Args:
        channels: Output channels of `trunk`.
        pooler: Features of a box.
        num_classes: Number of classes, without background.
        strides: Pixels per position of each feature map.
        class_agnostic: One box for all classes.
        box_weights: Factors of the deltas dx, dy, dw and dh.
        positive_iou: IoU with an object from which a proposal is an example of its class.
        negative_iou: IoU from which, and below which, it is an example of background.
        batch_size_per_image: Proposals of an image that are trained.
        positive_fraction: Largest share of those with an object.
        crowd_overlap: Share of a proposal's area in a crowd above which it is not trained; None trains all.
        beta: Difference at which smooth L1 changes from a square to a line; 0 is L1.
        convention: Rules of boxes.
    """

    component_group: ClassVar[str] = "parts"

    def __init__(
        self,
        channels: int,
        pooler: Spec[RoIPooler],
        num_classes: PositiveInt = 80,
        strides: Sequence[PositiveInt] = (4, 8, 16, 32),
        class_agnostic: bool = False,
        box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
        positive_iou: Probability = 0.5,
        negative_iou: tuple[Probability, Probability] = (0.0, 0.5),
        batch_size_per_image: PositiveInt = 512,
        positive_fraction: Probability = 0.25,
        crowd_overlap: Probability | None = None,
        beta: NonNegative = 1 / 9,
        convention: ConventionName = "torchvision",
    ) -> None:
        super().__init__()
        self.num_classes, self.box_weights, self.convention = num_classes, box_weights, convention_of(convention)
        self.pooler = pooler(strides=strides, convention=convention)
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.crowd_overlap, self.beta = crowd_overlap, beta
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 if class_agnostic else 4 * num_classes)
        normal_init(self.cls_score, std=0.01)
        normal_init(self.bbox_pred, std=0.001)

    def trunk(self, x: Tensor) -> Tensor:
        """Return vectors (R, channels) or maps (R, channels, h', w') of the features of boxes (R, C, h, w)."""
        raise NotImplementedError

    def classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and deltas of the output of `trunk`."""
        if x.ndim == 4:
            x = x.mean((2, 3))
        return self.cls_score(x).float(), self.bbox_pred(x).float()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.classify(self.trunk(x))

    def predict(
        self, features: Features, boxes: Sequence[Tensor], scales: Sequence[float] | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Return boxes (n, K, 4), K = 1 for boxes without a class, and probabilities (n, num_classes + 1) per image.

        Args:
            features: One map for each stride.
            boxes: Proposals (n, 4) of each image.
            scales: Side of each image divided by that before it was resized. The results are in pixels before.
        """
        logits, deltas = self(self.pooler(features, boxes))
        parts = zip(boxes, scales or [1.0] * len(boxes), by_image(logits.softmax(1), boxes), by_image(deltas, boxes))
        return [(self.decode(each / scale, delta), scores) for each, scale, scores, delta in parts]

    def decode(self, boxes: Tensor, deltas: Tensor) -> Tensor:
        """Return the boxes (n, K, 4) of deltas (n, 4K) from proposals (n, 4)."""
        return decode(deltas, boxes, self.box_weights, self.convention).unflatten(1, (-1, 4))

    def loss(
        self, features: Features, proposals: Proposals, truths: Sequence[GroundTruth]
    ) -> tuple[dict[str, Tensor], Samples]:
        """Return the losses of a random sample of the proposals, and the sample."""
        samples = self.sample(proposals, truths)
        return self.losses(features, samples, truths), samples

    def losses(self, features: Features, samples: Samples, truths: Sequence[GroundTruth]) -> dict[str, Tensor]:
        """Return the losses of given samples, whose ``features`` are set."""
        samples.features = self.trunk(self.pooler(features, samples.boxes))
        logits, deltas = self.classify(samples.features)
        labels = torch.cat(samples.labels)
        targets = torch.cat([self._targets(*each) for each in zip(samples.boxes, samples.index, truths)])
        classes, boxes = box_losses(logits, deltas, labels, targets, self.beta)
        return {"loss_cls": classes, "loss_bbox": boxes, "acc_cls": accuracy(logits.detach(), labels)}

    def _targets(self, boxes: Tensor, index: Tensor, truth: GroundTruth) -> Tensor:
        objects = truth.boxes_of(index) / truth.scale
        return encode(objects, boxes / truth.scale, self.box_weights, self.convention)

    @torch.no_grad()
    def sample(self, proposals: Proposals, truths: Sequence[GroundTruth]) -> Samples:
        """Return a random sample of the proposals and the objects of each image, with what they match."""
        found = [self._sample(*each, truth) for each, truth in zip(proposals, truths)]
        boxes, labels, index = (list(each) for each in zip(*found))
        return Samples(boxes, labels, index)

    def match(self, boxes: Tensor, truth: GroundTruth) -> tuple[Tensor, Tensor]:
        """Return the object (n,) of each proposal, and what it may be trained as, (n,): 1, 0, -1 nothing."""
        parts = boxes.split(boxes_at_once(max(len(truth.boxes), len(truth.crowds))))
        index, labels = (torch.cat(each) for each in zip(*(self._match(part, truth) for part in parts)))
        return index, labels

    def _match(self, boxes: Tensor, truth: GroundTruth) -> tuple[Tensor, Tensor]:
        quality = iou(truth.boxes / truth.scale, boxes / truth.scale, self.convention)
        index, labels = match(quality, self.negative_iou[1], self.positive_iou, allow_low_quality=False)
        if len(quality):
            labels[quality.amax(0) < self.negative_iou[0]] = -1
        if self.crowd_overlap is not None and len(truth.crowds):
            inside = intersection(truth.crowds, boxes, self.convention) / area(boxes, self.convention)
            labels[inside.amax(0) > self.crowd_overlap] = -1
        return index, labels

    def _sample(self, boxes: Tensor, logits: Tensor, truth: GroundTruth) -> tuple[Tensor, Tensor, Tensor]:
        boxes, _ = add_ground_truth(boxes, logits, truth.boxes, self.convention)
        index, labels = self.match(boxes, truth)
        numbers = self.batch_size_per_image, self.positive_fraction
        chosen = torch.cat(sample(labels, *numbers, generator=truth.generator))
        boxes, labels, index = boxes[chosen], labels[chosen], index[chosen]
        classes = torch.full_like(labels, self.num_classes)
        classes[labels == 1] = truth.labels[index[labels == 1]]
        return boxes, classes, index


class MLPBoxHead(BoxHead):
    """Convolutions, then fully connected layers: Detectron's ``roi_2mlp_head``, and ``Xconv1fc`` with ``num_convs``.

    Args:
        in_channels: Channels of the feature maps.
        pooler: Features of a box; RoIAlign with 7 x 7 cells and 2 x 2 samples for None.
        num_convs: Number of 3x3 convolutions.
        conv_channels: Their output channels.
        num_fcs: Number of fully connected layers.
        fc_channels: Their output channels.
        norm_cfg: Type of the norms of the convolutions and its arguments; None for no norm.
        **kwargs: As in `BoxHead`.
    """

    fixed_arguments: ClassVar[frozenset[str]] = frozenset({"channels"})

    def __init__(
        self,
        in_channels: PositiveInt = 256,
        pooler: Spec[RoIPooler] | None = None,
        num_convs: NonNegativeInt = 0,
        conv_channels: PositiveInt = 256,
        num_fcs: PositiveInt = 2,
        fc_channels: PositiveInt = 1024,
        norm_cfg: Mapping[str, Any] | None = None,
        **kwargs: Unpack[BoxHeadArguments],
    ) -> None:
        super().__init__(fc_channels, pooler or Spec(RoIPooler, output_size=7), **kwargs)
        self.convs = conv_sequence(in_channels, conv_channels, num_convs, norm_cfg=norm_cfg)
        height, width = self.pooler.output_size
        size = (conv_channels if num_convs else in_channels) * height * width
        self.num_fcs = num_fcs
        for number in range(1, num_fcs + 1):
            layer = nn.Linear(size if number == 1 else fc_channels, fc_channels)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
            self.add_module(f"fc{number}", layer)

    def trunk(self, x: Tensor) -> Tensor:
        x = self.convs(x).flatten(1)
        for number in range(1, self.num_fcs + 1):
            x = getattr(self, f"fc{number}")(x).relu()
        return x


class Res5BoxHead(BoxHead):
    """The last stage of a ResNet, on regions: Detectron's ``roi_conv5``, for C4 bodies.

    Args:
        in_channels: Channels of the feature map.
        pooler: Features of a box; RoIAlign with 14 x 14 cells for None.
        stride: Stride of the stage.
        dilation: Dilation of its 3x3 convolutions.
        style: As in `DetectionResNet`.
        groups: As in `DetectionResNet`.
        base_width: As in `DetectionResNet`.
        norm_cfg: Type of the norms and its arguments.
        pretrained: Weights of a ResNet to load.
        **kwargs: As in `BoxHead`.
    """

    fixed_arguments: ClassVar[frozenset[str]] = frozenset({"channels"})

    def __init__(
        self,
        in_channels: PositiveInt = 1024,
        pooler: Spec[RoIPooler] | None = None,
        stride: PositiveInt = 2,
        dilation: PositiveInt = 1,
        style: Style = "pytorch",
        groups: PositiveInt = 1,
        base_width: PositiveInt = 64,
        norm_cfg: Mapping[str, Any] = {"type": "FrozenBN"},
        pretrained: str | None = None,
        **kwargs: Unpack[BoxHeadArguments],
    ) -> None:
        pooler = pooler or Spec(RoIPooler, output_size=14, sampling_ratio=0)
        super().__init__(2 * in_channels, pooler, **kwargs)
        self.layer4 = residual_stage(
            3,
            in_channels,
            in_channels // 2,
            stride,
            dilation,
            style=style,
            groups=groups,
            base_width=base_width,
            norm_cfg=norm_cfg,
        )
        self.pretrained = pretrained

    def trunk(self, x: Tensor) -> Tensor:
        return self.layer4(x)
