"""Keypoint head of Mask R-CNN: a heat map for each kind of keypoint.

Mask R-CNN, He et al., 2017 (https://arxiv.org/abs/1703.06870), section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import PositiveInt
from segkernel.errors import UsageError
from segkernel.interfaces.model import Features
from segkernel.interfaces.spec import Spec
from segkernel.nn import kaiming_init
from segplug_instances.box_head import Samples
from segplug_instances.conventions import ConventionName, convention_of
from segplug_instances.ground_truth import GroundTruth
from segplug_instances.keypoint_maps import keypoint_loss, keypoint_targets
from segplug_instances.layers import conv_sequence
from segplug_instances.roi import RoIPooler, by_image


class KeypointHead(nn.Module):
    """Features of boxes (R, C, h, w) to logits (R, num_keypoints, 4h, 4w): Detectron's ``v1convX``.

    Convolutions, a transposed convolution that doubles the map, and another doubling without parameters.

    Args:
        in_channels: Channels of the feature maps.
        num_keypoints: Kinds of keypoints; 17 in COCO.
        num_classes: Number of classes, without background; all of them have the same kinds of keypoints.
        strides: Pixels per position of each feature map.
        num_convs: Number of convolutions.
        channels: Their output channels.
        pooler: Features of a box; RoIAlign with 14 x 14 cells and 2 x 2 samples for None.
        keypoints_per_batch: The loss is divided by this number of keypoints; by those that are visible for None.
        convention: How the map is doubled the second time.
    """

    component_group: ClassVar[str] = "parts"

    def __init__(
        self,
        in_channels: PositiveInt = 256,
        num_keypoints: PositiveInt = 17,
        num_classes: PositiveInt = 1,
        strides: Sequence[PositiveInt] = (4, 8, 16, 32),
        num_convs: PositiveInt = 8,
        channels: PositiveInt = 512,
        pooler: Spec[RoIPooler] | None = None,
        keypoints_per_batch: PositiveInt | None = None,
        convention: ConventionName = "torchvision",
    ) -> None:
        super().__init__()
        self.pooler = (pooler or Spec(RoIPooler, output_size=14))(strides=strides, convention=convention)
        self.num_classes = num_classes
        self.keypoints_per_batch, self.convention = keypoints_per_batch, convention_of(convention)
        self.convs = conv_sequence(in_channels, channels, num_convs)
        self.score_lowres = nn.ConvTranspose2d(channels, num_keypoints, 4, stride=2, padding=1)
        kaiming_init(self.score_lowres)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.score_lowres(self.convs(x)).float())

    def upsample(self, maps: Tensor) -> Tensor:
        """Return maps (R, P, h, w) of twice the size."""
        if not self.convention.keypoint_kernel:
            return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
        # Bilinear but at the border of the map, beyond which a transposed convolution has zeros.
        side = maps.new_tensor([0.25, 0.75, 0.75, 0.25])
        kernel = (side[:, None] * side).expand(maps.shape[1], 1, 4, 4)
        return F.conv_transpose2d(maps, kernel, stride=2, padding=1, groups=maps.shape[1])

    def predict(self, features: Features, boxes: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits (n, P, M, M) of the heat maps of boxes (n, 4), for each image."""
        return by_image(self(self.pooler(features, boxes)), boxes)

    def loss(self, features: Features, samples: Samples, truths: Sequence[GroundTruth]) -> dict[str, Tensor]:
        """Return the loss of the samples with an object."""
        samples = samples.foreground(self.num_classes)
        logits = self(self.pooler(features, samples.boxes))
        keypoints = torch.cat([self._keypoints(truth, index) for truth, index in zip(truths, samples.index)])
        index, valid = keypoint_targets(keypoints, torch.cat(samples.boxes), logits.shape[-1])
        return {"loss_keypoint": keypoint_loss(logits, index, valid, self.keypoints_per_batch)}

    def _keypoints(self, truth: GroundTruth, index: Tensor) -> Tensor:
        if truth.keypoints is None:
            hint = "take a data set of them, such as CocoKeypointDataset, or leave keypoint_head out"
            raise UsageError(f"a keypoint head trains on keypoints; the targets lack 'keypoints': {hint}")
        return truth.keypoints[truth.objects[index]]
