"""A head that tells which classes an image holds, from the mean or the maximum of a feature map.

As an auxiliary head it gives the backbone the context of the whole image, as the semantic encoding loss does in Context
Encoding for Semantic Segmentation, Zhang et al., 2018 (https://arxiv.org/abs/1803.08904).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import LabelId, NonNegative, PositiveInt, Probability
from segkernel.interfaces.model import Features
from segkernel.labels import Task
from segkernel.nn import DecodeHead, adaptive_avg_pool
from segkernel.sample import Targets
from segplug_heads.heads.enc_head import classes_present


class ImageClassHead(DecodeHead):
    """Feature maps -> logits (N, num_classes, 1, 1), one for each class that may occur in an image.

    The loss is the binary cross-entropy with the classes that occur in the labels of each image that has any.

    Args:
        in_channels: Channels of the feature map.
        num_classes: Number of classes.
        in_index: Index of the feature map; negative ones count from the last.
        pooling: ``avg`` or ``max`` over all pixels.
        dropout_ratio: Dropout rate of the pooled values.
        loss_weight: Factor of the loss.
        ignore_index: The ignored label.
        task: Without effect, accepted as of every decode head: each class has a sigmoid of its own.
    """

    learns_classes: ClassVar[bool] = False
    conformance: ClassVar = {"in_channels": 16, "in_index": 2, "num_classes": 4}

    def __init__(
        self,
        in_channels: PositiveInt,
        num_classes: PositiveInt,
        in_index: int = -1,
        pooling: Literal["avg", "max"] = "avg",
        dropout_ratio: Probability = 0.2,
        loss_weight: NonNegative = 1.0,
        ignore_index: LabelId = 255,
        task: Task | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            in_channels,
            num_classes=num_classes,
            dropout_ratio=dropout_ratio,
            in_index=in_index,
            ignore_index=ignore_index,
        )
        self.pooling, self.loss_weight = pooling, loss_weight

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        x = x if isinstance(x, Tensor) else x[0]  # the map, of a pair with a class token
        return adaptive_avg_pool(x, 1) if self.pooling == "avg" else x.amax((2, 3), keepdim=True)

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        labels, logits = targets["seg"], self(features).flatten(1)
        labelled = (labels != self.ignore_index).flatten(1).any(1)
        if labels.ndim == 4:  # a map of 0 and 1 for each class
            present = (labels == 1).flatten(2).any(2)
        else:
            present = classes_present(labels, self.num_classes, self.ignore_index)
        losses = F.binary_cross_entropy_with_logits(logits, present.to(logits.dtype), reduction="none").mean(1)
        return {"loss_image": self.loss_weight * (losses * labelled).sum() / labelled.sum().clamp_min(1)}
