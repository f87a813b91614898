"""`SemiSupervisedHook`: the model also learns from images without labels.

    hooks:
      - {type: SemiSupervisedHook, data: data/more_images}

An average of the model, the teacher, labels them as they are; the model learns these labels, where the teacher is sure,
on strongly augmented views of the same images.

Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation (UniMatch), Yang et al., 2023
(https://arxiv.org/abs/2208.09910), with an averaged teacher (Mean teachers are better role models, Tarvainen and
Valpola, 2017, https://arxiv.org/abs/1703.01780) as in UniMatch V2, Yang et al., 2025
(https://arxiv.org/abs/2410.10777).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from segkernel import image
from segkernel.annotations import FileName, NonNegative, PositiveInt, Probability
from segkernel.data import Loader
from segkernel.errors import DataError, UsageError
from segkernel.hookspecs import Priority, hookimpl
from segkernel.interfaces.data import Dataset, Transform
from segkernel.interfaces.model import PixelClasses, Segmentor
from segkernel.labels import IGNORE
from segkernel.sample import Batch, LabelMap, Sample, Targets
from segplug_training.strong_views import cutmix_mask, strong_view

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SEED = 7919
"""Added to the run's seed: the images without labels are drawn in an order of their own."""


class ImagesWithoutLabels:
    """The images of a folder and the folders in it, or of a data set whose labels are not read.

    Args:
        source: The folder, or the data set.

    Raises:
        DataError: The folder does not exist or has no images.
    """

    classes: Sequence[str] = ()
    palette: Sequence[tuple[int, int, int]] = ()

    def __init__(self, source: str | Path | Dataset) -> None:
        self.data, self.paths = source, []
        if isinstance(source, str | Path):
            self.paths = sorted(path for path in Path(source).rglob("*") if path.suffix.lower() in SUFFIXES)
            if not self.paths:
                raise DataError(f"no images ({', '.join(SUFFIXES)})", source)

    def __len__(self) -> int:
        return len(self.paths) if isinstance(self.data, str | Path) else len(self.data)

    def __getitem__(self, index: int) -> Sample:
        if isinstance(self.data, str | Path):
            path = self.paths[index]
            sample = Sample(image=image.read(path), meta={"path": path, "name": path.stem})
        else:
            given = self.data[index]
            sample = Sample(image=given.image, meta=given.meta)
        # Transforms fill with the ignored label what they add around the image: these pixels get no labels.
        sample["seg"] = LabelMap(np.zeros(sample.size, np.uint8))
        return sample


class SemiSupervisedHook:
    """Add to the loss that of images without labels, in training only.

    Its parts are logged under ``unlabelled.``, with ``unlabelled.share``, the share of pixels of which the teacher is
    sure. The teacher and the position in the images are saved in checkpoints: resuming is exact.

    Args:
        data: A folder of images, or a data set, whose labels are not used.
        transforms: What is done to them before the teacher sees them: flips, scales and crops, to the size of training
            images. None takes those of the training set, but for transforms that join several samples.
        batch_size: Images in a micro-batch; None is as many as with labels.
        threshold: Probability of the teacher's class from which a pixel is learned.
        weight: Factor of the loss.
        momentum: Share of the teacher that an iteration keeps. It starts lower: at most 1 - 1 / (iterations + 1).
        views: Strongly augmented views of each image.
        cutmix: Whether views take a rectangle of another image, with its labels.

    Raises:
        UsageError: When training begins, if the model does not predict one class per pixel, or is sharded over ranks.
        DataError: When training begins, if there are no images.
    """

    priority = Priority.NORMAL
    conformance: ClassVar = {"data": "data/more_images"}

    def __init__(
        self,
        data: FileName | Dataset,
        transforms: Sequence[Transform] | None = None,
        batch_size: PositiveInt | None = None,
        threshold: Probability = 0.95,
        weight: NonNegative = 1.0,
        momentum: Probability = 0.996,
        views: PositiveInt = 2,
        cutmix: bool = True,
    ) -> None:
        self.data, self.transforms, self.batch_size = data, transforms, batch_size
        self.threshold, self.weight, self.momentum = threshold, weight, momentum
        self.views, self.cutmix = views, cutmix
        self.drawn = 0
        self._saved: Mapping[str, Tensor] | None = None
        self._before: dict[str, Any] = {}
        self._batches: Iterator[Batch] | None = None

    # ------------------------------------------------------------ the run

    @hookimpl
    def before_train(self, run: Run) -> None:
        output = run.model.outputs.get("seg")
        if not isinstance(output, PixelClasses) or output.activation != "softmax":
            raise UsageError(
                "SemiSupervisedHook needs a model whose logits have a softmax over the classes of each pixel"
            )
        if any(hasattr(parameter, "device_mesh") for parameter in run.model.parameters()):
            raise UsageError("SemiSupervisedHook: the model is sharded; use DDP or one device")
        self.run, self.model = run, run.model
        self.teacher: Segmentor = deepcopy(run.model).eval().requires_grad_(False)
        if self._saved is not None:
            self.teacher.load_state_dict(self._saved)
        self._batches = self._loader(run).train_batches(self.drawn, run.engine.rank, run.engine.world_size)
        self._before = {key: vars(run.model)[key] for key in ("loss",) if key in vars(run.model)}
        self.loss_of_labels = run.model.loss
        run.model.loss = self.loss  # type: ignore[method-assign]

    @hookimpl
    def after_train_iteration(self, run: Run) -> None:
        """Update the teacher."""
        share = 1 - min(self.momentum, 1 - 1 / (run.iteration + 1))
        state = run.model.state_dict()
        with torch.no_grad():
            for name, average in self.teacher.state_dict().items():
                if average.is_floating_point():
                    average.lerp_(state[name], share)
                else:
                    average.copy_(state[name])

    @hookimpl
    def after_train(self, run: Run) -> None:
        """Restore the model's own loss, and end the workers."""
        self._batches = None
        if vars(run.model).get("loss") == self.loss:
            del run.model.loss
            vars(run.model).update(self._before)

    def state_dict(self) -> dict[str, Any]:
        """Return the teacher's weights, and how many images were drawn."""
        teacher = self._saved if self._batches is None else self.teacher.state_dict()
        return {"drawn": self.drawn, "teacher": dict(teacher or {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from saved weights and position."""
        self.drawn, self._saved = state["drawn"], state["teacher"] or None

    def _loader(self, run: Run) -> Loader:
        labelled = run.train_set
        assert labelled is not None
        transforms = self.transforms
        if transforms is None:
            transforms = [each for each in labelled.transforms if not each.needs]
        self.micro_batch = self.batch_size or labelled.micro_batch
        return Loader(
            ImagesWithoutLabels(self.data),
            transforms,
            micro_batch=self.micro_batch,
            workers=labelled.workers,
            seed=run.seed + SEED,
            start_method=labelled.start_method,
            prefetch=labelled.prefetch,
            pin_memory=labelled.pin_memory,
        )

    # ------------------------------------------------------------ the loss

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the model's losses, and in training those of a batch without labels."""
        losses = self.loss_of_labels(images, targets)
        if not self.model.training:
            return losses
        weak, known = self._draw(images.device)
        labels = self._labels(weak, known)
        generator = torch.Generator().manual_seed((self.run.seed << 32) + self.drawn)
        self.drawn += self.micro_batch * self.run.engine.world_size
        found: dict[str, Tensor] = {}
        for _ in range(self.views):
            for name, value in self._loss_of_view(weak, labels, generator).items():
                found[name] = found.get(name, 0.0) + value / self.views
        share = (labels != IGNORE).float().mean()
        return {**losses, **{f"unlabelled.{name}": value for name, value in found.items()}, "unlabelled.share": share}

    def _draw(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the next images, normalised, and where they are not padding."""
        assert self._batches is not None
        images, targets = self.run.preprocessor(next(self._batches).to(device))  # type: ignore[attr-defined]
        return images, targets["seg"] != IGNORE

    @torch.no_grad()
    def _labels(self, images: Tensor, known: Tensor) -> Tensor:
        """Return the teacher's classes (N, H, W), ignored where it is not sure."""
        output, size = self.model.outputs["seg"], (known.shape[1], known.shape[2])
        logits = output.resize(self.teacher.predict(images)["seg"], size, size)
        probability, labels = logits.float().softmax(1).max(1)
        return labels.where((probability >= self.threshold) & known, torch.full_like(labels, IGNORE))

    def _loss_of_view(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        preprocessor: Any = self.run.preprocessor  # type: ignore[attr-defined]
        mean, std = preprocessor.mean, preprocessor.std
        strong = (strong_view(images * std + mean, generator) - mean) / std
        if self.cutmix and len(images) > 1:
            mask = cutmix_mask(len(images), (images.shape[2], images.shape[3]), generator).to(images.device)
            strong = torch.where(mask.unsqueeze(1), strong.roll(1, 0), strong)
            labels = torch.where(mask, labels.roll(1, 0), labels)
        losses = self.loss_of_labels(strong, Targets({"seg": labels}))
        # Accuracies are those of the labels, but for the class of the teacher there is no truth to compare with.
        return {name: self.weight * value for name, value in losses.items() if "loss" in name}
