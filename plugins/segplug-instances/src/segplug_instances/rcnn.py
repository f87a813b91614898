"""Faster, Mask and Keypoint R-CNN: proposals of regions, then their classes, boxes, masks and keypoints.

Faster R-CNN, Ren et al., 2015 (https://arxiv.org/abs/1506.01497); Mask R-CNN, He et al., 2017
(https://arxiv.org/abs/1703.06870).

    model = RCNN(DetectionResNet(50), DetectionFPN(), box_head=Spec(MLPBoxHead), mask_head=Spec(MaskHead))
    model.eval().predict(images)["seg"]     # for each image: boxes (n, 4), scores (n,), labels (n,), masks (n, 28, 28)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

import segkernel.weights
from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, ExportError, Problem
from segkernel.geometry import Size
from segkernel.inference import IMAGE_SIZES
from segkernel.interfaces.model import Backbone, Features, Neck, Segmentor, TestConfig
from segkernel.interfaces.spec import Spec
from segkernel.sample import Targets
from segplug_instances.box_head import BoxHead
from segplug_instances.conventions import ConventionName, convention_of
from segplug_instances.ground_truth import ground_truths
from segplug_instances.keypoint_head import KeypointHead
from segplug_instances.mask_head import MaskHead
from segplug_instances.output import Instances
from segplug_instances.rpn import RPN
from segplug_instances.tracing import is_exporting


def _example_targets(size: Size) -> Targets:
    """Return the objects of two images for the conformance kit, one of which has none."""
    height, width = size
    boxes = torch.tensor([[4, 4, width - 8, height - 8], [10, 12, 30, 40], [0, 0, width, height]], dtype=torch.float32)
    masks = torch.ones(3, height, width, dtype=torch.uint8)
    fields = {"boxes": boxes, "classes": torch.tensor([0, 3, 1]), "crowd": torch.tensor([False, False, True])}
    fields |= {"instances": masks, "keypoints": boxes[:, None, [0, 1, 2]].repeat(1, 17, 1)}
    return Targets({name: [value, value[:0]] for name, value in fields.items()})


class RCNN(Segmentor):
    """Normalised images (N, C, H, W) to objects: a list of one mapping for each image, see `Instances`.

    Images of different sizes are padded at the bottom and right with 0; trailing rows and columns that are 0 in all
    channels are padding. Heads are given as specs, which this class completes: ``in_channels``, ``strides``,
    ``num_classes`` and ``convention``.

    Args:
        backbone: Images to feature maps.
        neck: Feature maps to feature maps, such as `DetectionFPN`; none for None.
        rpn: Region proposal network; `RPN` for None.
        box_head: Classes and boxes of regions; None for a model of proposals, which have no class.
        mask_head: Masks of boxes.
        keypoint_head: Keypoints of boxes.
        num_classes: Number of classes, without background; not used without a box head.
        convention: Whose rules all parts follow; that of the code that the weights were trained with.
        output: Which boxes are objects: thresholds, and the largest number.
        in_channels: Channels of the feature maps; those that the neck or the backbone declares for None.
        strides: Pixels per position of each feature map; for None those of the backbone, and the double of the last for
            each further map.
        size_divisor: Images are padded to a multiple of this; 32 for FPN, 1 for one feature map.
        pretrained: Weights to load into the backbone: a file, an address or a known name.
        test_cfg: Inference mode of `segkernel.inference`; objects need whole images.
    """

    conformance: ClassVar[Any] = {
        "backbone": {"type": "DetectionResNet", "base_channels": 8},
        "neck": {"type": "DetectionFPN", "in_channels": [32, 64, 128, 256], "out_channels": 8},
        "box_head": {"type": "MLPBoxHead", "fc_channels": 16},
        "mask_head": {"type": "MaskHead", "num_convs": 1, "channels": 8},
        "num_classes": 4,
    }
    conformance_inputs: ClassVar[Any] = {"targets": _example_targets}

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck | None = None,
        rpn: Spec[RPN] | None = None,
        box_head: Spec[BoxHead] | None = None,
        mask_head: Spec[MaskHead] | None = None,
        keypoint_head: Spec[KeypointHead] | None = None,
        num_classes: PositiveInt = 80,
        convention: ConventionName = "torchvision",
        output: Spec[Instances] | None = None,
        in_channels: PositiveInt | None = None,
        strides: Sequence[PositiveInt] | None = None,
        size_divisor: PositiveInt = 32,
        pretrained: str | None = None,
        test_cfg: TestConfig | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.pretrained = backbone, neck, pretrained
        self.convention, self.size_divisor = convention_of(convention), size_divisor
        self.test_cfg: TestConfig = test_cfg or {"mode": "whole"}
        channels = in_channels or _channels(backbone, neck)
        strides = strides or _strides(backbone, neck)
        shared: dict[str, Any] = {"in_channels": channels, "convention": convention}
        self.rpn = (rpn or Spec(RPN))(strides=strides, **shared)
        # Boxes are pooled from the levels of the backbone: P6 of a pyramid is for large anchors only.
        shared |= {"strides": strides[: len(backbone.strides)], "num_classes": num_classes}
        self.box_head = box_head(**shared) if box_head else None
        self.mask_head = mask_head(**shared) if mask_head else None
        self.keypoint_head = keypoint_head(**shared) if keypoint_head else None
        for name in ("mask_head", "keypoint_head"):
            if getattr(self, name) is not None and self.box_head is None:
                raise ConfigError(Problem("needs a box head, whose boxes it works on", name, hint="add box_head"))
        classes = num_classes if box_head else 1
        self.output = (output or Spec(Instances))(classes=classes, convention=convention)
        self.outputs = {"seg": self.output}
        segkernel.weights.load_pretrained(self)

    def extract_features(self, images: Tensor) -> tuple[Features, Size]:
        """Return the feature maps of images, finest first, and height and width of the images padded for them."""
        height, width = (_round_up(length, self.size_divisor) for length in images.shape[2:])
        images = pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
        features = self.backbone(images)
        return features if self.neck is None else self.neck(features), (height, width)

    def forward(self, images: Tensor) -> Tensor:
        """Return the objects of each image as (N, limit, 6): box, score and label; rows of 0 where there are fewer."""
        limit, found = self.output.limit, []
        for image in self.predict(images)["seg"]:
            columns = (image["boxes"], image["scores"][:, None], image["labels"][:, None])
            rows = torch.cat([each.to(images.dtype) for each in columns], 1)[:limit]
            found.append(pad(rows, (0, 0, 0, limit - len(rows))))
        return torch.stack(found)

    def predict(
        self, images: Tensor, sizes: Sequence[Size] | None = None, scales: Sequence[float] | None = None
    ) -> dict[str, list[dict[str, Tensor]]]:
        """Return the objects of each image.

        Args:
            images: Normalised, (N, C, H, W).
            sizes: Height and width of each image without padding; for None those that inference knows, or else found
                from the padding.
            scales: Side of each image divided by that before it was resized. With these, boxes are decoded and
                compared in pixels before, as Detectron does; the result is in pixels of ``images`` in any case. For
                None those that inference knows, if the convention says so.
        """
        originals: Sequence[Size | None] = [None] * len(images)
        if is_exporting():
            sizes = sizes or _whole_image(images)
        elif sizes is None and (known := IMAGE_SIZES.get(images)):
            sizes, resized_from = zip(*known)
            if self.convention.original_boxes:
                originals = resized_from
                scales = scales or [1 / self.output.factors(*each)[1] for each in known]
        sizes = sizes or image_sizes(images)
        features, padded = self.extract_features(images)
        proposals = self.rpn.propose(features, self._limits(sizes), padded, scales)
        if self.box_head is None:
            return {"seg": [_without_class(*each) for each in proposals]}

        found = self.box_head.predict(features, [boxes for boxes, _ in proposals], scales)
        parts = zip(found, sizes, scales or [1.0] * len(sizes), originals)
        objects = [self._select(*each, size, scale, before) for each, size, scale, before in parts]
        boxes, labels = [each["boxes"] for each in objects], [each["labels"] for each in objects]
        if self.mask_head is not None:
            masks = self.mask_head.predict(features, boxes, labels, self.box_head)
            objects = [each | {"masks": mask} for each, mask in zip(objects, masks)]
        if self.keypoint_head is not None:
            maps = self.keypoint_head.predict(features, boxes)
            objects = [each | {"keypoint_maps": heat} for each, heat in zip(objects, maps)]
        return {"seg": objects}

    def loss(
        self,
        images: Tensor,
        targets: Targets,
        sizes: Sequence[Size] | None = None,
        scales: Sequence[float] | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of all heads.

        Args:
            images: Normalised, (N, C, H, W).
            targets: As `ground_truths` takes them; with ``sizes`` in their ``meta``, these are used.
            sizes: As in `predict`.
            scales: As in `predict`.
        """
        sizes = sizes or targets.meta.get("sizes") or image_sizes(images)
        truths = ground_truths(targets, sizes, self.convention, scales)
        features, padded = self.extract_features(images)
        losses, proposals = self.rpn.loss(features, sizes, padded, truths)
        if self.box_head is None:
            return losses

        box_losses, samples = self.box_head.loss(features, proposals, truths)
        losses |= box_losses
        if self.mask_head is not None:
            losses |= self.mask_head.loss(features, samples, truths)
        if self.keypoint_head is not None:
            losses |= self.keypoint_head.loss(features, samples, truths)
        return losses

    def _select(
        self, boxes: Tensor, scores: Tensor, size: Size, scale: float, original: Size | None
    ) -> dict[str, Tensor]:
        """Return the objects of an image, from boxes (n, K, 4) that are divided by ``scale``."""
        if original is None:
            original = size if scale == 1 else (round(size[0] / scale), round(size[1] / scale))
        boxes, scores, labels, _ = self.output.select(boxes, scores, original)
        return {"boxes": boxes * scale, "scores": scores, "labels": labels}

    def _limits(self, sizes: Sequence[Size]) -> list[Size]:
        """Return the sizes to which proposals are cut."""
        if self.training or not self.convention.proposals_in_padding:
            return list(sizes)
        return [(_round_up(height, self.size_divisor), _round_up(width, self.size_divisor)) for height, width in sizes]


def _whole_image(images: Tensor) -> list[Size]:
    """Return height and width of one image, without looking at its values."""
    if images.shape[0] != 1:
        raise ExportError(
            "an exported detector takes one image: export it with dynamic: size (--dynamic size), or false"
        )
    return [(images.shape[2], images.shape[3])]


def image_sizes(images: Tensor) -> list[Size]:
    """Return height and width of each image of a batch (N, C, H, W), without trailing rows and columns of 0."""
    if images.is_meta:  # a config is checked with an image without values
        return [(images.shape[2], images.shape[3])] * len(images)
    pixels = (images != 0).any(1)
    found = []
    for inside in (pixels.any(2), pixels.any(1)):
        lengths = (inside * torch.arange(1, inside.shape[1] + 1, device=images.device)).amax(1)
        found.append(torch.where(lengths == 0, inside.shape[1], lengths).tolist())  # an image of 0 only is not padding
    return list(zip(*found))


def _without_class(boxes: Tensor, logits: Tensor) -> dict[str, Tensor]:
    return {"boxes": boxes, "scores": logits.sigmoid(), "labels": torch.zeros_like(logits, dtype=torch.long)}


def _round_up(length: int, divisor: int) -> int:
    return (length + divisor - 1) // divisor * divisor  # ONNX divides negative integers towards zero


def _channels(backbone: Backbone, neck: Neck | None) -> int:
    """Return the channels of the feature maps."""
    channels = backbone.channels[-1] if neck is None else getattr(neck, "out_channels", None)
    if channels is None:
        message = f"{type(neck).__name__} does not declare out_channels"
        raise ConfigError(Problem(message, "in_channels", hint="set in_channels to the channels of its maps"))
    return channels


def _strides(backbone: Backbone, neck: Neck | None) -> tuple[int, ...]:
    """Return the strides of the feature maps; a neck may add coarser ones."""
    strides = list(backbone.strides)
    count = getattr(neck, "num_outs", len(strides))
    while len(strides) < count:
        strides.append(2 * strides[-1])
    return tuple(strides[:count])
