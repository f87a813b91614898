"""Train a small detector for some steps, each rank on its part of every batch; ``detectors.py FILE`` by torchrun.

Anchors and proposals are drawn at random, by the seed of each image.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkernel import build
from segkernel.engine import LocalEngine
from segkernel.inference import Preprocessor
from segkernel.interfaces.model import Engine
from segkernel.sample import Batch, Targets

STEPS, IMAGES, SIZE = 2, 4, (64, 96)
SPEC: dict[str, Any] = {
    "type": "RCNN",
    "convention": "detectron",  # draws with replacement, too
    "backbone": {"type": "DetectionResNet", "base_channels": 8, "norm_cfg": {"type": "GN", "num_groups": 4}},
    "neck": {"type": "DetectionFPN", "in_channels": [32, 64, 128, 256], "out_channels": 8},
    "rpn": {"type": "RPN", "pre_nms": [60, 60], "post_nms": [300, 30], "batch_size_per_image": 32},
    "box_head": {"type": "MLPBoxHead", "fc_channels": 16, "batch_size_per_image": 8},
    "mask_head": {"type": "MaskHead", "num_convs": 1, "channels": 8},
    "keypoint_head": {"type": "KeypointHead", "num_convs": 1, "channels": 8},
    "num_classes": 3,
}


def make_batch(seed: int, rank: int, ranks: int) -> Batch:
    """Return a rank's part of a batch, whose images have none, one, two and three objects."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (IMAGES, 3, *SIZE), generator=draw, dtype=torch.uint8)
    fields: dict[str, list[Tensor]] = {"boxes": [], "classes": [], "instances": [], "keypoints": []}
    for count in range(IMAGES):
        corners, sides = (torch.rand(count, 2, generator=draw) * torch.tensor([48.0, 32.0]) for _ in "ab")
        boxes = torch.cat([corners, corners + sides + 8], 1).round()
        masks = torch.zeros(count, *SIZE, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        fields["boxes"].append(boxes)
        fields["classes"].append(torch.arange(count) % 3)
        fields["instances"].append(masks)
        fields["keypoints"].append(
            torch.cat([boxes[:, None, :2] + 4, torch.full((count, 1, 1), 2.0)], 2).repeat(1, 17, 1)
        )
    part = slice(None) if ranks == 1 else slice(2) if rank == 0 else slice(2, None)
    count = len(images[part])
    known = {"seeds": [IMAGES * seed + number for number in range(IMAGES)][part]}
    targets = Targets({name: values[part] for name, values in fields.items()}, known)
    return Batch(images[part], targets, [SIZE] * count, [{} for _ in range(count)])


def train(alone: bool = False) -> dict[str, Tensor]:
    """Return the weights after all steps, those of one process on whole batches if ``alone``."""
    torch.manual_seed(0)
    model = build("segmentors", SPEC)
    engine: Engine = (
        LocalEngine("cpu") if alone else build("engines", {"type": "DDPEngine", "device": "cpu", "threads": 1})
    )
    engine.prepare_model(model.train(), Preprocessor().train())
    engine.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.01), {"max_norm": 5.0})
    for seed in range(STEPS):
        engine.train_step([make_batch(seed, engine.rank, engine.world_size)])
    return engine.model_state()


if __name__ == "__main__":
    weights = train()
    if torch.distributed.get_rank() == 0:
        torch.save(weights, Path(sys.argv[1]))
