"""A plain U-Net script, as one writes it without a framework: the measure that `benchmarks/starter.py` takes.

MobileNetV2 as the encoder, five decoder blocks, cross-entropy and soft Dice, AdamW with one cycle, scaled and mirrored
crops, the best of several validations. It trains for a CPU time, whole images at test time.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, relu6: bool = True) -> list:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU6(True)] if relu6 else [])]


class InvertedResidual(nn.Module):
    """Sandler et al., MobileNetV2, 2018."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.block = nn.Sequential(
            *(conv_bn(inputs, hidden, 1) if expand > 1 else []),
            *conv_bn(hidden, hidden, 3, stride, hidden),
            *conv_bn(hidden, outputs, 1, relu6=False),
        )
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.same else self.block(x)


class UNet(nn.Module):
    """MobileNetV2 whose maps of stride 2 to 32 are decoded to the image's size."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (256, 128, 64, 32, 16)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, 32, stride=2))]
        inputs = 32
        for expand, outputs, count, stride in (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        ):  # fmt: skip
            for index in range(count):
                layers.append(InvertedResidual(inputs, outputs, stride if index == 0 else 1, expand))
                inputs = outputs
        self.stages = nn.ModuleList(
            [nn.Sequential(*layers[a:b]) for a, b in ((0, 2), (2, 4), (4, 7), (7, 14), (14, 18))]
        )
        inputs, blocks = 320, []
        for outputs, skip in zip(widths, (96, 32, 24, 16, 0), strict=True):
            blocks.append(nn.Sequential(*conv_bn(inputs + skip, outputs), *conv_bn(outputs, outputs)))
            inputs = outputs
        self.blocks, self.head = nn.ModuleList(blocks), nn.Conv2d(inputs, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        for block, skip in zip(self.blocks, [*maps[-2::-1], None], strict=True):
            x = F.interpolate(x, scale_factor=2.0)
            x = block(x if skip is None else torch.cat([x, skip], 1))
        return self.head(x)


def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    valid = (target != 255).unsqueeze(1)
    truth = F.one_hot(target.where(target != 255, 0), logits.shape[1]).movedim(3, 1) * valid
    scores = logits.softmax(1) * valid
    both, sizes = (scores * truth).sum((0, 2, 3)), (scores + truth).sum((0, 2, 3))
    present = truth.sum((0, 2, 3)) > 0
    return (1 - 2 * both / sizes.clamp_min(1e-6))[present].mean()


def read(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (cv2.imread(str(path))[..., ::-1], cv2.imread(str(folder / "masks" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED))
        for path in sorted((folder / "images").iterdir())
    ]


def to_tensor(image: np.ndarray) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    return (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def augment(image: np.ndarray, mask: np.ndarray, crop: int) -> tuple[Tensor, Tensor]:
    scale = random.uniform(0.75, 1.5)
    image = cv2.resize(image, None, fx=scale, fy=scale)
    mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    below, right = max(0, crop - image.shape[0]), max(0, crop - image.shape[1])
    image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(124, 116, 104))
    mask = cv2.copyMakeBorder(mask, 0, below, 0, right, cv2.BORDER_CONSTANT, value=255)
    top, left = random.randint(0, image.shape[0] - crop), random.randint(0, image.shape[1] - crop)
    image, mask = image[top : top + crop, left : left + crop], mask[top : top + crop, left : left + crop]
    if random.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    image = np.clip(image * random.uniform(0.8, 1.2) + random.uniform(-20, 20), 0, 255)
    return to_tensor(image), torch.from_numpy(np.ascontiguousarray(mask)).long()


@torch.no_grad()
def evaluate(model: nn.Module, samples: list, classes: int) -> list[float]:
    model.eval()
    confusion = torch.zeros(classes, classes, dtype=torch.long)
    for image, mask in samples:
        x = to_tensor(image)[None]
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % 32, 0, -height % 32))
        labels = model(x.contiguous(memory_format=torch.channels_last))[0, :, :height, :width].argmax(0)
        truth = torch.from_numpy(mask).long()
        known = truth != 255
        confusion += torch.bincount(truth[known] * classes + labels[known], minlength=classes**2).view(classes, classes)
    model.train()
    right = confusion.diagonal()
    return (100 * right / (confusion.sum(0) + confusion.sum(1) - right).clamp_min(1)).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="with train, val and test, each with images and masks")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="CPU time, of all threads")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--validations", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("plain.json"))
    args = parser.parse_args()
    random.seed(0)
    torch.manual_seed(0)
    train, val, test = (read(args.data / part) for part in ("train", "val", "test"))
    model = UNet(args.classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.01)
    best, kept, validated, steps = -1.0, {}, 0, 0
    while (done := time.process_time() / args.seconds) < 1:
        for group in optimizer.param_groups:  # one cycle over the CPU time: up for a tenth, then down as a cosine
            group["lr"] = args.lr * (done / 0.1 if done < 0.1 else 0.5 + 0.5 * np.cos(np.pi * (done - 0.1) / 0.9))
        images, masks = zip(*(augment(*random.choice(train), args.crop) for _ in range(args.batch)), strict=True)
        logits = model(torch.stack(images).contiguous(memory_format=torch.channels_last))
        target = torch.stack(masks)
        loss = F.cross_entropy(logits, target, ignore_index=255) + soft_dice(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if done * args.validations > validated + 0.98:
            validated += 1
            ious = evaluate(model, val, args.classes)
            if np.mean(ious) > best:
                best, kept = np.mean(ious), copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    ious = evaluate(model, test, args.classes)
    args.out.write_text(json.dumps({"mIoU": float(np.mean(ious)), "ious": ious, "steps": steps}), "utf-8")


if __name__ == "__main__":
    main()
