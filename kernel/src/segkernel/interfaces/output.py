"""The kinds of output of a segmentor: how raw values are resized, merged over views and windows, and decoded.

`PixelMap` has values for each pixel, `PixelClasses` logits of classes. A plugin adds another kind by deriving from
`Output`: boxes, for instance, are scaled where maps are interpolated. The entry-point group ``segkernel.outputs``
registers the kinds, so that an exported file can refer to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import Problem, UsageError
from segkernel.geometry import Size
from segkernel.labels import IGNORE, Task


class Output(ABC):
    """The kind of one output of a segmentor. A kind is a frozen dataclass of plain values.

    ``raw`` is what `Segmentor.predict` returns for the output: anything with an entry for each image of the batch that
    can be sliced, such as a tensor (N, ...) or a list of N mappings. `segkernel.inference` accesses it through these
    methods only.

    An output other than a map has a method ``draw(image, field, classes, palette, opacity)`` for pictures, which
    returns a copy of an image (H, W, 3) uint8 RGB with a decoded field, or the `Targets` of the image, drawn over
    it; ``classes`` are names, ``palette`` is one RGB colour per class. One whose fields list objects may have a
    method ``results(field)``: an entry of a COCO result file for each, with the number of its class as
    ``category_id``, and the attributes ``shown_score``, the score from which pictures show an object, and
    ``connections``, the pairs of its keypoints that they connect. If raw values are not one tensor, exporters need
    the methods ``pack(raw)``, which returns tensors (N, ...) by name, and its inverse ``unpack(tensors)``.
    """

    classes: int
    """Number of classes; 0 where there are none."""

    @abstractmethod
    def resize(self, raw: Any, old: Size, new: Size) -> Any:
        """Return the raw values of images of size ``old`` as those of the same images at size ``new``."""

    @abstractmethod
    def flip(self, raw: Any, size: Size) -> Any:
        """Return the raw values of images of ``size`` as those of the images mirrored left to right."""

    @abstractmethod
    def crop(self, raw: Any, size: Size) -> Any:
        """Return the raw values of the top left ``size`` of the images; the rest is padding."""

    def activate(self, raw: Any) -> Any:
        """Return what can be averaged over test-time augmentations: probabilities for logits; by default ``raw``."""
        return raw

    @abstractmethod
    def merge(self, merged: Any, raw: Any) -> Any:
        """Return ``merged``, the views of the same images so far (None before the first), together with one more."""

    def mean(self, merged: Any, count: int) -> Any:
        """Return raw values from the result of `merge` for a number of views; by default unchanged."""
        return merged

    @abstractmethod
    def decode(self, raw: Any, activated: bool = False) -> Any:
        """Return the field of a `Prediction` for the raw values of one image, a batch of one.

        ``activated`` tells whether they went through `activate`. A field holds tensors, or lists or mappings of them.
        """

    def finish(self, raw: Any, padded: Size, size: Size, original: Size) -> Any:
        """Return the field of a `Prediction` for the raw values of one image, a batch of one.

        They are resized, cropped, resized and decoded; an output may override it to compute the same field faster.

        Args:
            raw: As `Segmentor.predict` returns it, at any stride.
            padded: Size of the model's input.
            size: Size of the image in it, at the top left.
            original: Size of the field.
        """
        return self.decode(self.resize(self.crop(self.resize(raw, padded, padded), size), size, original))

    def mismatch(self, dataset: Any) -> Problem | None:
        """Return why a model with this output cannot learn from, or be measured on, a data set; by default None."""
        return None

    def config(self) -> dict[str, Any]:
        """Return plain values from which `output_of` rebuilds the same output."""
        return {"type": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


class PixelMap(Output):
    """An output with ``out_channels`` values for each pixel: raw values are (N, out_channels, h, w) at any stride.

    Only these are averaged over sliding windows.
    """

    out_channels: int
    align_corners: bool

    def resize(self, raw: Tensor, old: Size, new: Size) -> Tensor:
        raw, size = raw.contiguous(), tuple(new)  # torch interpolates other memory layouts with other rounding errors
        return raw if raw.shape[-2:] == size else interpolate(raw, size, None, "bilinear", self.align_corners)

    def flip(self, raw: Tensor, size: Size) -> Tensor:
        return raw.flip(-1)

    def crop(self, raw: Tensor, size: Size) -> Tensor:
        return raw[..., : size[0], : size[1]]

    def merge(self, merged: Tensor | None, raw: Tensor) -> Tensor:
        return raw if merged is None else merged + raw

    def mean(self, merged: Tensor, count: int) -> Tensor:
        return merged / count if count > 1 else merged


@dataclass(frozen=True)
class PixelClasses(PixelMap):
    """Logits (N, out_channels, h, w) of classes; decoded to class ids (H, W), uint8 where they fit.

    Args:
        classes: Number of classes.
        out_channels: Channels of the logits; 1 with ``sigmoid`` is a binary map of 2 classes.
        activation: Turns logits into probabilities; ``none`` where the model returns other values to be averaged as
            they are, such as sums of mask probabilities.
        threshold: Probability above which a ``sigmoid`` output is class 1, or a class of a multi-label map is present.
        align_corners: How logits are resized.
        task: ``multilabel`` is decoded to (K, H, W) uint8: 1 where a class is present, else 0.
    """

    classes: PositiveInt
    out_channels: PositiveInt
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    threshold: Probability | None = None
    align_corners: bool = False
    task: Task = "multiclass"

    def activate(self, raw: Tensor) -> Tensor:
        return (
            raw.softmax(1) if self.activation == "softmax" else raw.sigmoid() if self.activation == "sigmoid" else raw
        )

    def decode(self, raw: Tensor, activated: bool = False) -> Tensor:
        several = self.task == "multilabel"
        if self.threshold is not None and (several or self.out_channels == 1):
            chosen = ((raw if activated else self.activate(raw)) > self.threshold).to(torch.uint8)
            return chosen[0] if several else chosen[0, 0]
        labels = raw.argmax(1)[0]
        return labels.to(torch.uint8) if raw.shape[1] <= IGNORE else labels

    def mismatch(self, dataset: Any) -> Problem | None:
        name, count = type(dataset).__name__, len(dataset.classes)
        if self.classes != count:
            hint = f"set num_classes: {count} in the model's heads, or reference ${{data.num_classes}}"
            return Problem(f"{name} has {count} classes, the model predicts {self.classes}", hint=hint)
        task = getattr(getattr(dataset, "labels", None), "task", "multiclass")
        if (task == "multilabel") != (self.task == "multilabel"):
            hint = f"set data.task: {task}, or give the data set labels for task {self.task}"
            return Problem(f"{name} has labels for task {task}, the model is for task {self.task}", hint=hint)
        return None


def output_of(config: Mapping[str, Any]) -> Output:
    """Return the output that `Output.config` described, for example in the metadata of an exported file.

    Its kind must be an entry point of an installed distribution: a file is data and must not import arbitrary code.

    Raises:
        UsageError, ConfigError, ComponentError: The kind is not installed, or refuses its arguments.
        UntrustedError: It is an import path.
    """
    from segkernel.building import build
    from segkernel.catalog import Catalog

    if "type" not in config and config.get("activation") == "none":
        raise UsageError("files from before 0.3 do not distinguish depths from classes: export the model again")
    catalog = replace(Catalog.current(), trusted=False)
    output: Output = build("outputs", {"type": PixelClasses.__name__, **config}, path="outputs", catalog=catalog)
    return output
