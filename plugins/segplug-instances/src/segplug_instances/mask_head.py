"""Mask heads of Mask R-CNN: a binary mask of fixed size for each box and class.

Mask R-CNN, He et al., 2017 (https://arxiv.org/abs/1703.06870), section 3 and figure 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.errors import UsageError
from segkernel.interfaces.model import Features
from segkernel.interfaces.spec import Spec
from segkernel.nn import kaiming_init, normal_init
from segplug_instances.box_head import BoxHead, Samples
from segplug_instances.conventions import ConventionName, convention_of
from segplug_instances.ground_truth import GroundTruth
from segplug_instances.layers import conv_sequence
from segplug_instances.losses import mask_loss, mask_probabilities
from segplug_instances.mask_targets import mask_targets
from segplug_instances.resnet import Style, residual_stage
from segplug_instances.roi import RoIPooler, by_image

Trunk = Literal["convs", "res5", "shared"]


class MaskHead(nn.Module):
    """Features of boxes (R, C, h, w) to logits (R, num_classes, M, M) of masks, which do not compete.

    Detectron's ``v1up4convs`` has four convolutions before the transposed one, ``v1up`` two; ``v0up`` has the last
    stage of a ResNet, and ``v0upshare`` that of the box head.

    Args:
        in_channels: Channels of the feature maps.
        num_classes: Number of classes, without background.
        strides: Pixels per position of each feature map.
        trunk: Layers before the transposed convolution: ``convs``, ``res5``, or ``shared`` for those of the box head.
        num_convs: Number of ``convs``.
        channels: Output channels of these, and of the transposed convolution.
        dilation: Dilation of ``convs`` or ``res5``.
        stride: Stride of ``res5``.
        style: Of ``res5``, as in `DetectionResNet`.
        class_agnostic: One mask for all classes.
        pooler: Features of a box; RoIAlign with 14 x 14 cells for None.
        norm_cfg: Type of the norms of ``convs`` and its arguments; None for no norm. ``res5`` has ``FrozenBN``.
        convention: What the targets are.
    """

    component_group: ClassVar[str] = "parts"

    def __init__(
        self,
        in_channels: PositiveInt = 256,
        num_classes: PositiveInt = 80,
        strides: Sequence[PositiveInt] = (4, 8, 16, 32),
        trunk: Trunk = "convs",
        num_convs: NonNegativeInt = 4,
        channels: PositiveInt = 256,
        dilation: PositiveInt = 1,
        stride: PositiveInt = 2,
        style: Style = "pytorch",
        class_agnostic: bool = False,
        pooler: Spec[RoIPooler] | None = None,
        norm_cfg: Mapping[str, Any] | None = None,
        convention: ConventionName = "torchvision",
    ) -> None:
        super().__init__()
        sampling_ratio = 2 if trunk == "convs" else 0
        pooler = pooler or Spec(RoIPooler, output_size=14, sampling_ratio=sampling_ratio)
        self.pooler = pooler(strides=strides, convention=convention)
        self.num_classes, self.convention, self.shared = num_classes, convention_of(convention), trunk == "shared"
        width = 2 * in_channels  # of the last stage of a ResNet
        if trunk == "convs":
            self.convs = conv_sequence(in_channels, channels, num_convs, dilation, norm_cfg=norm_cfg)
            width = channels if num_convs else in_channels
        elif trunk == "res5":
            self.layer4 = residual_stage(3, in_channels, in_channels // 2, stride, dilation, style=style)
        self.trunk_name = {"convs": "convs", "res5": "layer4", "shared": None}[trunk]
        self.upsample = nn.ConvTranspose2d(width, channels, 2, stride=2)
        self.mask_logits = nn.Conv2d(channels, 1 if class_agnostic else num_classes, 1)
        kaiming_init(self.upsample)
        normal_init(self.mask_logits, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the features of boxes, or of the output of a shared trunk."""
        if self.trunk_name is not None:
            x = getattr(self, self.trunk_name)(x)
        return self.mask_logits(self.upsample(x).relu()).float()

    def predict(
        self, features: Features, boxes: Sequence[Tensor], labels: Sequence[Tensor], box_head: BoxHead
    ) -> list[Tensor]:
        """Return the probabilities (n, M, M) of the masks of boxes (n, 4) with labels (n,), for each image."""
        x = self.pooler(features, boxes)
        logits = self(box_head.trunk(x) if self.shared else x)
        return by_image(mask_probabilities(logits, torch.cat(list(labels))), boxes)

    def loss(self, features: Features, samples: Samples, truths: Sequence[GroundTruth]) -> dict[str, Tensor]:
        """Return the loss of the samples with an object."""
        samples = samples.foreground(self.num_classes)
        if self.shared:
            assert samples.features is not None
            x = samples.features
        else:
            x = self.pooler(features, samples.boxes)
        logits = self(x)
        targets = [
            self._targets(truth, boxes, index, logits.shape[-1])
            for truth, boxes, index in zip(truths, samples.boxes, samples.index)
        ]
        return {"loss_mask": mask_loss(logits, torch.cat(samples.labels), torch.cat(targets))}

    def _targets(self, truth: GroundTruth, boxes: Tensor, index: Tensor, side: int) -> Tensor:
        if truth.masks is None:
            hint = "set instances: polygons in the data set, or leave mask_head out"
            raise UsageError(f"a mask head trains on masks; the targets lack 'instances': {hint}")
        return mask_targets(truth.masks, boxes, truth.objects[index], side, self.convention, truth.size)
