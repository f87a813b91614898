"""Add a box head from outside: Cascade R-CNN (Cai and Vasconcelos, 2018), whose stages refine the boxes of one another.

python examples/cascade_rcnn.py

A config names it by its import path, ``type: cascade_rcnn:CascadeBoxHead``, or, with an entry point, by its name:

    [project.entry-points."segkernel.parts"]
    CascadeBoxHead = "my_package.cascade_rcnn:CascadeBoxHead"
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel import build
from segkernel.interfaces.model import Features
from segkernel.sample import Targets
from segplug_instances.box_head import BoxHeadArguments, MLPBoxHead, Samples
from segplug_instances.boxes import clip
from segplug_instances.ground_truth import GroundTruth
from segplug_instances.rpn import Proposals


class CascadeBoxHead(MLPBoxHead):
    """A box head of several stages, trained for higher and higher overlap; itself is the first one.

    Args:
        in_channels: Channels of the feature maps.
        fc_channels: Channels of the fully connected layers.
        ious: IoU from which a box is an example of its class, in each stage.
        loss_weights: Factor of the losses of each stage.
        **kwargs: As in `BoxHead`.
    """

    fixed_arguments: ClassVar[frozenset[str]] = frozenset(
        {"channels", "positive_iou", "negative_iou", "class_agnostic"}
    )

    def __init__(
        self,
        in_channels: int = 256,
        fc_channels: int = 1024,
        ious: Sequence[float] = (0.5, 0.6, 0.7),
        loss_weights: Sequence[float] = (1.0, 0.5, 0.25),
        **kwargs: Unpack[BoxHeadArguments],
    ) -> None:
        options = {"in_channels": in_channels, "fc_channels": fc_channels, "class_agnostic": True, **kwargs}
        super().__init__(positive_iou=ious[0], negative_iou=(0.0, ious[0]), **options)
        self.loss_weights = loss_weights
        self.stages = nn.ModuleList()
        for number, iou in enumerate(ious[1:], 2):
            options["box_weights"] = tuple(number * weight for weight in self.box_weights)  # differences get smaller
            self.stages.append(MLPBoxHead(positive_iou=iou, negative_iou=(0.0, iou), **options))

    def predict(
        self, features: Features, boxes: Sequence[Tensor], scales: Sequence[float] | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        found = super().predict(features, boxes)
        scores = [[each for _, each in found]]
        for stage in self.stages:
            found = stage.predict(features, [refined[:, 0] for refined, _ in found])
            scores.append([each for _, each in found])
        means = [torch.stack(each).mean(0) for each in zip(*scores)]
        parts = zip(found, scales or [1.0] * len(found), means)
        return [(refined / scale, mean) for (refined, _), scale, mean in parts]

    def loss(
        self, features: Features, proposals: Proposals, truths: Sequence[GroundTruth]
    ) -> tuple[dict[str, Tensor], Samples]:
        losses, first = super().loss(features, proposals, truths)
        with torch.no_grad():
            found = super().predict(features, first.boxes)
        for number, (stage, weight) in enumerate(zip(self.stages, self.loss_weights[1:]), 2):
            boxes = [clip(refined[:, 0], truth.size, self.convention) for (refined, _), truth in zip(found, truths)]
            samples = labelled(stage, boxes, truths)
            of_stage = stage.losses(features, samples, truths)
            losses |= {
                f"{name}_{number}": value * (weight if "loss" in name else 1) for name, value in of_stage.items()
            }
            with torch.no_grad():
                found = stage.predict(features, boxes)
        return losses, first


def labelled(stage: MLPBoxHead, boxes: list[Tensor], truths: Sequence[GroundTruth]) -> Samples:
    """Return all boxes with the class that a stage learns for them."""
    samples = Samples(boxes, [], [])
    for each, truth in zip(boxes, truths):
        index, positive = stage.match(each, truth)
        classes = torch.full_like(index, stage.num_classes)
        classes[positive == 1] = truth.labels[index[positive == 1]]
        samples.labels.append(classes)
        samples.index.append(index)
    return samples


def main() -> None:
    """Build the model, train it for a step and predict."""
    torch.manual_seed(0)
    model = build(
        "segmentors",
        {
            "type": "RCNN",
            "backbone": {"type": "DetectionResNet", "base_channels": 16},
            "neck": {"type": "DetectionFPN", "in_channels": [64, 128, 256, 512], "out_channels": 32},
            "box_head": {"type": CascadeBoxHead, "fc_channels": 64},
            "mask_head": {"type": "MaskHead", "num_convs": 2, "channels": 32},
            "num_classes": 3,
        },
    )
    images, box = torch.randn(1, 3, 96, 128), torch.tensor([[20.0, 10.0, 90.0, 80.0]])
    mask = torch.zeros(1, 96, 128, dtype=torch.uint8)
    mask[:, 10:80, 20:90] = 1
    targets = Targets({"boxes": [box], "classes": [torch.tensor([1])], "instances": [mask]})
    losses = model.train().loss(images, targets)
    sum(value for name, value in losses.items() if "loss" in name).backward()
    print({name: round(value.item(), 3) for name, value in losses.items()})
    with torch.no_grad():
        (objects,) = model.eval().predict(images)["seg"]
    print({name: tuple(value.shape) for name, value in objects.items()})


if __name__ == "__main__":
    main()
