"""Where Detectron, Detectron.pytorch, detectron2 and torchvision differ, in one table.

A checkpoint gives the detections of the code it was trained with only under the same rules: what the width of a box is,
which of two overlapping boxes is dropped, how anchors are placed. Every part takes a `Convention`; packaged
recipes set that of their weights. Values to tune, such as thresholds and numbers of boxes, are arguments of the parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

ConventionName = Literal["detectron", "detectron_pytorch", "detectron2", "torchvision"]


@dataclass(frozen=True)
class Convention:
    """Rules of one implementation.

    Attributes:
        inclusive: Whether the right and bottom edge belong to a box: widths are x2 - x1 + 1, and boxes are clipped to
            w - 1. Otherwise widths are x2 - x1, and boxes are clipped to w.
        rounded_anchors: Whether the widths and heights of anchors are rounded to integers.
        sizes_first: Whether the anchors of a cell are listed by size, then by ratio.
        anchor_strides: Whether the stride of a level is that of the network, or the size of the padded image divided by
            that of the feature map, rounded down, for each axis.
        min_size: The smallest side of a proposal: ``above`` for side > limit, ``from`` for side >= limit, ``scaled``
            for side >= limit * scale of the image, ``original`` for the same in the image before resizing, with a limit
            of at least 1.
        centre_inside: Whether a proposal whose centre is outside the image is dropped.
        original_boxes: Whether, in inference, boxes are decoded and compared in pixels of the image before it was
            resized.
        proposals_in_padding: Whether, in inference, proposals may lie in the padding to a size that the network needs.
        limit_over_batch: Whether, in training with several levels, the limit of proposals after NMS is one for the
            whole batch that a device has at once, as in Detectron. Otherwise it is one for each image. Either way NMS
            is done in each level.
        ground_truth_first: Whether ground truth is put before the proposals, rather than after them.
        ranks_probabilities: Whether proposals are compared by the sigmoid of their logits, in float32.
        suppress_equal: Whether NMS drops a box whose IoU equals the threshold.
        nms_in_input_order: Whether NMS returns the remaining boxes in the order of its input; of equal scores the last
            box is first, then. Otherwise they descend by score, and of equal scores the first box is first.
        shifted_groups: Whether batched NMS moves the groups apart, which changes the last bits of an IoU.
        level_epsilon: Added to the relative size of a box for the choice of its level.
        level_epsilon_in_log: Whether it is added before the logarithm.
        outside_anchors: Whether anchors that leave the image take part in the training of the RPN.
        negatives_with_replacement: Whether the RPN draws its negatives with replacement.
        scarce_negatives: Whether all negatives are taken if there are not more than wanted. Detectron.pytorch takes
            none, since a branch of Detectron is missing there.
        rpn_normalizer: The divisor of the RPN's losses. ``batch``: of both, the numbers of anchors to sample.
            ``sampled``: of both, the number of anchors that were sampled. ``image``: of the loss of the class, as
            ``sampled`` (as ``batch`` with several levels); of the box, the number sampled in each image, then the
            number of images.
        min_detection: The smallest side in pixels of a detection.
        ties_beyond_limit: Whether all detections with the score of the last one within the limit are kept; then they
            are listed by class, inside a class in the order of NMS.
        mask_side: The least side in pixels of a box for which polygons are rasterised.
        mask_bitmaps: Whether targets are made from bitmaps, by RoIAlign without half a pixel of offset and without
            a threshold. Otherwise polygons are rasterised in the box; a bitmap goes through an aligned RoIAlign and a
            threshold of 0.5.
        paste_by_grid: Whether masks are sampled at the centres of pixels, and a value equal to the threshold is inside.
            Otherwise masks are resized to boxes of whole pixels.
        keypoint_kernel: Whether heat maps are doubled by a transposed convolution, which is bilinear but at the border.
        keypoint_centre: Position in its pixel of a keypoint that has integer coordinates in a data set.
        keypoint_score: ``resized``: softmax over the heat map at the size of the box. ``map``: of its peak over the
            heat map as predicted. ``logit``: the logit of the peak.
        late_keypoints: Whether heat maps are resized to boxes in the original image, rather than in the model's input.
        resize: How images are resized. ``detectron``: by one factor for both axes, to the nearest size, interpolating
            numbers with fractions. ``pillow``: to the nearest size, as Pillow does, with bytes. ``torch``: to the size
            rounded down, interpolating numbers with fractions.
    """

    name: ConventionName
    inclusive: bool
    rounded_anchors: bool
    sizes_first: bool
    anchor_strides: Literal["network", "image"]
    min_size: Literal["above", "from", "scaled", "original"]
    centre_inside: bool
    original_boxes: bool
    proposals_in_padding: bool
    limit_over_batch: bool
    ground_truth_first: bool
    ranks_probabilities: bool
    suppress_equal: bool
    nms_in_input_order: bool
    shifted_groups: bool
    level_epsilon: float
    level_epsilon_in_log: bool
    outside_anchors: bool
    negatives_with_replacement: bool
    scarce_negatives: bool
    rpn_normalizer: Literal["batch", "sampled", "image"]
    min_detection: float
    ties_beyond_limit: bool
    mask_side: float
    mask_bitmaps: bool
    paste_by_grid: bool
    keypoint_kernel: bool
    keypoint_centre: float
    keypoint_score: Literal["resized", "map", "logit"]
    resize: Literal["detectron", "pillow", "torch"]
    late_keypoints: bool

    @property
    def edge(self) -> int:
        """What a box's width has beyond x2 - x1, in pixels."""
        return int(self.inclusive)


DETECTRON = Convention(
    name="detectron",
    inclusive=True,
    rounded_anchors=True,
    sizes_first=False,
    anchor_strides="network",
    min_size="original",
    centre_inside=True,
    original_boxes=True,
    proposals_in_padding=True,
    limit_over_batch=True,
    ground_truth_first=True,
    ranks_probabilities=True,
    suppress_equal=True,
    nms_in_input_order=True,
    shifted_groups=False,
    level_epsilon=1e-6,
    level_epsilon_in_log=True,
    outside_anchors=False,
    negatives_with_replacement=True,
    scarce_negatives=True,
    rpn_normalizer="image",
    min_detection=0.0,
    ties_beyond_limit=True,
    mask_side=1.0,
    mask_bitmaps=False,
    paste_by_grid=False,
    keypoint_kernel=True,
    keypoint_centre=0.0,
    keypoint_score="resized",
    resize="detectron",
    late_keypoints=True,
)
DETECTRON_PYTORCH = replace(DETECTRON, name="detectron_pytorch", min_size="scaled", scarce_negatives=False)
DETECTRON2 = Convention(
    name="detectron2",
    inclusive=False,
    rounded_anchors=False,
    sizes_first=True,
    anchor_strides="network",
    min_size="above",
    centre_inside=False,
    original_boxes=False,
    proposals_in_padding=False,
    limit_over_batch=False,
    ground_truth_first=False,
    ranks_probabilities=False,
    suppress_equal=False,
    nms_in_input_order=False,
    shifted_groups=True,
    level_epsilon=1e-8,
    level_epsilon_in_log=True,
    outside_anchors=True,
    negatives_with_replacement=False,
    scarce_negatives=True,
    rpn_normalizer="batch",
    min_detection=0.0,
    ties_beyond_limit=False,
    mask_side=0.1,
    mask_bitmaps=False,
    paste_by_grid=True,
    keypoint_kernel=False,
    keypoint_centre=0.5,
    keypoint_score="map",
    resize="pillow",
    late_keypoints=False,
)
TORCHVISION = replace(
    DETECTRON2,
    name="torchvision",
    rounded_anchors=True,
    sizes_first=False,
    anchor_strides="image",
    min_size="from",
    ranks_probabilities=True,
    level_epsilon=1e-6,
    level_epsilon_in_log=False,
    rpn_normalizer="sampled",
    min_detection=1e-2,
    mask_bitmaps=True,
    paste_by_grid=False,
    keypoint_centre=0.0,
    keypoint_score="logit",
    resize="torch",
)


def convention_of(name: ConventionName) -> Convention:
    """Return the convention of this name."""
    return {each.name: each for each in (DETECTRON, DETECTRON_PYTORCH, DETECTRON2, TORCHVISION)}[name]
