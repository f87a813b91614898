"""One small correct component of each kind, from which mutants are made."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import Unpack

from segkernel import image
from segkernel.errors import CheckpointError, ExportError
from segkernel.hookspecs import hookimpl
from segkernel.interfaces.model import (
    Backbone,
    Exporter,
    Features,
    Head,
    Loss,
    Neck,
    PixelClasses,
    Segmentor,
    WeightFormat,
)
from segkernel.labels import IGNORE
from segkernel.nn import resize
from segkernel.sample import LabelMap, Sample, Targets
from segkernel.schedules import Schedule, ScheduleArguments


class Trunk(Backbone):
    """Two maps, at strides 4 and 8."""

    def __init__(self, in_channels: int = 3, widths: tuple[int, ...] = (8, 16), pretrained: str | None = None) -> None:
        super().__init__()
        self.channels, self.strides, self.pretrained = tuple(widths), (4, 8), pretrained
        self.stem = nn.Sequential(nn.Conv2d(in_channels, widths[0], 3, 4, 1), nn.BatchNorm2d(widths[0]))
        self.stages = nn.ModuleList([nn.Conv2d(widths[0], widths[1], 3, 2, 1)])
        self.register_buffer("scale", torch.rand(widths[0], 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        first = self.stem(images).relu() * self.scale
        return first, self.stages[0](first)


class Smooth(Neck):
    """A convolution for each map."""

    conformance: ClassVar = {"in_channels": [8, 16]}

    def __init__(self, in_channels: list[int]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.convs = nn.ModuleList(nn.Conv2d(width, 8, 3, padding=1) for width in in_channels)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        return tuple(conv(value) for conv, value in zip(self.convs, features, strict=True))


class Classifier(Head):
    """A convolution on the first map."""

    conformance: ClassVar = {"in_channels": 8, "num_classes": 4}

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.output = PixelClasses(num_classes, num_classes)
        self.dropout = nn.Dropout(0.1)
        self.conv_seg = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, features: Features) -> Tensor:
        return self.conv_seg(self.dropout(features[0]))

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        labels = targets["seg"]
        logits = resize(self(features), size=labels.shape[-2:], mode="bilinear")
        total = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        return {"loss_ce": total / (labels != IGNORE).sum().clamp(min=1)}


class WeightedCrossEntropy(Loss):
    """Mean cross-entropy of the pixels that are not ignored."""

    def __init__(self, loss_weight: float = 1.0, loss_name: str = "loss_ce") -> None:
        super().__init__()
        self.loss_weight, self.name = loss_weight, loss_name

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        values = cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
        if weight is not None:
            values = values * weight
        count = (target != ignore_index).sum().clamp(min=1)
        return self.loss_weight * values.sum() / (count if avg_factor is None else avg_factor)


class Model(Segmentor):
    """Two convolutions."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.conv_seg = nn.Conv2d(8, num_classes, 1)
        self.outputs = {"seg": PixelClasses(num_classes, num_classes)}
        self.test_cfg = {"mode": "whole"}

    def forward(self, images: Tensor) -> Tensor:
        return self.conv_seg(self.conv(images).relu())

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        labels = targets["seg"]
        logits = resize(self(images), size=labels.shape[-2:], mode="bilinear")
        total = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        return {"loss_ce": total / (labels != IGNORE).sum().clamp(min=1)}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"seg": self(images)}


class Files:
    """Two images with masks in a folder."""

    classes = ("sky", "ground")
    palette = ((0, 0, 255), (0, 255, 0))

    @staticmethod
    def conformance(folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        for index in range(2):
            cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (12, 16, 3), np.uint8))
            cv2.imwrite(str(folder / f"{index}_mask.png"), rng.choice([0, 1, 255], (12, 16)).astype(np.uint8))
        return {"folder": str(folder)}

    def __init__(self, folder: str) -> None:
        self.paths = sorted(path for path in Path(folder).glob("*.png") if "mask" not in path.name)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        pixels = image.read(path)
        labels = cv2.imread(str(path.with_name(f"{path.stem}_mask.png")), cv2.IMREAD_UNCHANGED)
        return Sample({"seg": LabelMap(labels)}, {"name": path.stem, "path": str(path)}, pixels)


class Darken:
    """Make images darker."""

    needs = 0

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        sample.image = (sample.image * rng.uniform(0.5, 1.0)).astype(np.uint8)
        return sample


class MeanIoU:
    """Mean IoU in percent."""

    def __init__(self, num_classes: int = 4) -> None:
        self.num_classes = num_classes
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: Any, target: Any) -> None:
        truth, guess = target["seg"].numpy().ravel(), prediction.labels.numpy().ravel()
        counted = truth != IGNORE
        np.add.at(self.matrix, (truth[counted], guess[counted]), 1)

    def merge(self, other: Any) -> None:
        self.matrix = self.matrix + other.matrix

    def compute(self) -> dict[str, float]:
        hit = self.matrix.diagonal()
        return {"mIoU": float(100 * (hit / np.maximum(self.matrix.sum(0) + self.matrix.sum(1) - hit, 1)).mean())}


class Best:
    """Remember the best metric and its iteration."""

    priority = 60

    def __init__(self, metric: str = "mIoU") -> None:
        self.metric, self.best, self.seen = metric, 0.0, [0]

    @hookimpl
    def after_validation(self, run: Any, metrics: Mapping[str, float]) -> None:
        if metrics[self.metric] > self.best:
            self.best, self.seen = metrics[self.metric], [*self.seen, run.iteration]

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.seen = state["best"], list(state["seen"])


class Traced(Exporter):
    """Write a traced model."""

    suffix = ".traced"

    def export(
        self, segmentor: Segmentor, path: Path, example: Tensor, metadata: Mapping[str, Any] | None = None
    ) -> str:
        model = copy.deepcopy(segmentor).eval()
        torch.jit.save(torch.jit.trace(model, example, check_trace=False), path)
        return "traced"

    def load(self, path: Path, device: str | None = None) -> Segmentor:
        try:
            return _Loaded(torch.jit.load(path))
        except Exception as error:
            raise ExportError(f"{path}: {error}") from error


class _Loaded(Segmentor):
    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program, self.test_cfg = program, {"mode": "whole"}
        self.outputs = {"seg": PixelClasses(4, 4)}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"seg": self.program(images)}


class Momentum(torch.optim.Optimizer):
    """Steps with momentum."""

    def __init__(self, params: Any, lr: float = 0.01, momentum: float = 0.5) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                speed = self.state[parameter].setdefault("speed", torch.zeros_like(parameter))
                speed.mul_(group["momentum"]).add_(parameter.grad)
                parameter.sub_(group["lr"] * speed)


class Exponential(Schedule):
    """Multiply the rate by 0.8 in each iteration."""

    def __init__(self, floor: float = 0.0, **kwargs: Unpack[ScheduleArguments]) -> None:
        super().__init__(**kwargs)
        self.floor = floor

    def rate(self, lr: float, base: float, i: int) -> float:
        return max(base * 0.8**i, self.floor)


class Shuffled:
    """Every sample once, in an order determined by the seed."""

    def order(self, dataset: Any, seed: int, epoch: int, batch_size: int) -> list[int]:
        return np.random.default_rng([seed, epoch]).permutation(len(dataset)).tolist()


class Prefixed(WeightFormat):
    """Files of arrays whose names start with ``theirs.``."""

    suffixes: ClassVar = (".theirs",)

    @staticmethod
    def make() -> tuple[nn.Module, dict[str, Tensor]]:
        module = nn.Linear(2, 3)
        return module, {f"theirs.{name}": value for name, value in module.state_dict().items()}

    conformance_inputs: ClassVar = {"make": make}

    def read(self, path: Path) -> Mapping[str, Any]:
        try:
            return dict(np.load(path, allow_pickle=False))
        except Exception as error:
            raise CheckpointError(f"{path}: {error}") from error

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return all(key.startswith("theirs.") for key in keys)

    def convert(self, module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("theirs."): value for name, value in weights.items()}
