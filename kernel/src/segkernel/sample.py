"""Samples, batches, targets and predictions: images with named fields.

The kind of a field defines how a geometric change acts on it, so a transform is written once and moves the image and
every field together:

    sample.apply(Crop(10, 20, 512, 512))        # segplug_datasets.geometry, or any other `Geometry`

Geometry is recorded and evaluated lazily.

Colour order is RGB, images are (H, W, C) arrays, points are (x, y) in pixels with (0, 0) at the outer corner of the
first pixel. No torch is imported until `collate` is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from segkernel.catalog import display
from segkernel.errors import DataError, UsageError, warn_renamed
from segkernel.fields import DepthMap, Field, LabelMap, MultiLabelMap, ObjectField, RasterField, WeightMap
from segkernel.geometry import LINEAR, OPENCV_DTYPES, Geometry, Raster, Size
from segkernel.image import opencv

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Self

    from segkernel.interfaces.data import DeviceStep

__all__ = ["Batch", "DepthMap", "Field", "Geometry", "LabelMap", "MultiLabelMap", "ObjectField", "Prediction",
           "RasterField", "Sample", "Size", "Targets", "WeightMap", "as_targets", "collate"]  # fmt: skip


class _Tensors:
    """A container of tensors that can be moved to a device together."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return a copy with ``function`` applied to every tensor."""
        raise NotImplementedError

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy whose tensors are on ``device``."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def cpu(self) -> Self:
        """Return a copy whose tensors are in main memory."""
        return self.to("cpu")

    def cuda(self) -> Self:
        """Return a copy whose tensors are on the current CUDA device."""
        return self.to("cuda")

    def detach(self) -> Self:
        """Return a copy whose tensors carry no gradient."""
        return self.map(lambda tensor: tensor.detach())


@dataclass
class _Named(_Tensors):
    """Values by name: fields can be added, read with `get`, and removed."""

    fields: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    _repr_html_ = display

    def __repr__(self) -> str:
        """Return one line: the shape and dtype of every array, and the names of the classes."""
        arrays = {"image": getattr(self, "image", None), **{k: getattr(v, "array", v) for k, v in self.fields.items()}}
        shown = [f"{name} {tuple(each.shape)} {each.dtype}" for name, each in arrays.items() if hasattr(each, "shape")]
        shown += [f"classes {', '.join(labels.classes)}" for labels in [self.meta.get("labels")] if labels]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __getitem__(self, name: str) -> Any:
        return self.fields[self._current(name)]

    def __setitem__(self, name: str, value: Any) -> None:
        self.fields[name] = value

    def __delitem__(self, name: str) -> None:
        del self.fields[name]

    def __contains__(self, name: str) -> bool:
        return self._current(name) in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field ``name``, or ``default``."""
        return self.fields.get(self._current(name), default)

    def _current(self, name: str) -> str:
        return name

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return a copy with ``function`` applied to every tensor."""
        return replace(self, fields={name: map_tensors(value, function) for name, value in self.fields.items()})


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with ``function`` applied to the tensors in it, also to those in lists and mappings."""
    if isinstance(value, list):
        return [map_tensors(entry, function) for entry in value]
    if isinstance(value, dict):
        return {name: map_tensors(entry, function) for name, entry in value.items()}
    return value if isinstance(value, np.ndarray) or not hasattr(value, "detach") else function(value)


@dataclass(repr=False)
class _SampleData(_Named):
    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    moved: str = ""
    original_size: Size | None = None
    device_steps: list[DeviceStep] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


class Sample(_SampleData):
    """One image (H, W, C), usually uint8 RGB, with its `Field` objects; the usual label map is the field ``seg``.

    Attributes:
        meta: Description: ``path``, ``name`` (without suffix), and any keys that a data set adds.
        moved: Class name of the last geometric change other than a resize; empty without one.
        original_size: Height and width before any transform, to which predictions return; set by the loader.
        device_steps: Operations that transforms leave to the device, in order; `Preprocessor` runs them.
        replaced: Reasons why samples that it replaces were unusable.
    """

    @property
    def image(self) -> np.ndarray:
        """The pixels, with pending operations applied."""
        return self._raster.array(LINEAR)

    @image.setter
    def image(self, image: np.ndarray) -> None:
        self._raster = Raster(image)

    @property
    def size(self) -> Size:
        """Height and width of the image."""
        return self._raster.size

    def apply(self, geometry: Geometry) -> Sample:
        """Add ``geometry`` to the pending operations of the image and every field; return self.

        Objects that leave the image are dropped from all fields that list them.
        """
        self.fields = {name: value.apply(geometry, self.size) for name, value in self.fields.items()}
        self._raster = self._raster.then(geometry)
        if not geometry.only_scales:
            self.moved = type(geometry).__name__
            objects = {name: value for name, value in self.fields.items() if isinstance(value, ObjectField)}
            kept = np.logical_and.reduce([value.inside(self.size) for value in objects.values()])
            self.fields |= {name: value.select(kept) for name, value in objects.items() if not kept.all()}
        return self

    def carry_out(self) -> Sample:
        """Apply all pending operations now; return self."""
        _ = self.image, [value.array for value in self.fields.values()]  # access applies them
        return self


@dataclass(repr=False)
class Targets(_Named):
    """Ground truth of a batch, or of one image: ``targets["seg"]`` is (N, H, W), or (H, W), class ids.

    A multi-label map is (N, K, H, W), or (K, H, W).

    Label maps are transferred as uint8; the preprocessor converts them to int64 on the device.

    Raster fields are tensors padded to the batch's size, other fields lists of one tensor per image.

    ``meta`` of a batch has ``sizes``, height and width of each image without padding, and in training ``seeds``: a
    number for each image, by which a model that draws at random does not depend on the rank that has the image.
    """

    @classmethod
    def of(cls, masks: Targets | Tensor, images: Tensor) -> Targets:
        """Return targets unchanged, and class ids (N, H, W) of an integer dtype as the field ``seg``.

        Raises:
            UsageError: When it is neither, or has another size than ``images`` (N, C, H, W).
        """
        if isinstance(masks, Targets):
            return masks
        if getattr(masks, "shape", None) != (size := images[:, 0].shape) or masks.is_floating_point():
            given = f"{type(masks).__name__} {tuple(getattr(masks, 'shape', ()))} {getattr(masks, 'dtype', '')}"
            raise UsageError(f"targets are class ids (N, H, W) = {tuple(size)} of integers, or Targets, not {given}")
        return cls({"seg": masks.long()})


@dataclass(repr=False)
class Prediction(_Named):
    """The prediction of one image, at its original size.

    Its fields are, for each output ``NAME`` of the segmentor, ``NAME``, the result of its `Output.decode`, usually
    (H, W) class ids, or (K, H, W) of 1 and 0 where the task is ``multilabel``, and, on request, ``NAME_probabilities``
    (K, H, W) float.
    """

    def _current(self, name: str) -> str:
        """Return the name of a field since 0.3."""
        new = f"{name.removesuffix('_scores')}_probabilities"
        if name in self.fields or new not in self.fields or not name.endswith("_scores"):
            return name
        warn_renamed(f"the field {name!r}", repr(new), stacklevel=4)
        return new

    @property
    def labels(self) -> Tensor:
        """The label map of the main output."""
        return self.fields["seg"]


@dataclass
class Batch(_Tensors):
    """Images of one step: (N, C, H, W) as the transforms return them (usually uint8), padded to one size.

    Attributes:
        sizes: Sizes without the padding, (height, width) per sample.
        meta: ``Sample.meta`` per sample.
        truths: In evaluation, the annotations of each image at its original size.
        original_sizes: ``Sample.original_size`` per sample; without any, predictions have the size of ``sizes``.
        device_steps: ``Sample.device_steps`` per sample; empty when there are none.
        replaced: Reasons why replaced samples were unusable.
        seconds: Seconds per loading stage: reading, each transform and ``collate``.
    """

    images: Tensor
    targets: Targets = field(default_factory=Targets)
    sizes: list[Size] = field(default_factory=list)
    meta: list[dict[str, Any]] = field(default_factory=list)
    truths: list[Targets] = field(default_factory=list)
    original_sizes: list[Size] = field(default_factory=list)
    device_steps: list[list[DeviceStep]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.images)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return a copy with ``function`` applied to every tensor."""
        truths = [truth.map(function) for truth in self.truths]
        return replace(self, images=function(self.images), targets=self.targets.map(function), truths=truths)

    def pin_memory(self) -> Self:
        """Return a copy in pinned memory, for faster copies to the device."""
        return self.map(lambda tensor: tensor.pin_memory())


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples into one `Batch`, padded at the bottom and right to the largest of them.

    Images are padded with 0, fields with their kind's fill; `Preprocessor` overwrites the padding.

    Raises:
        DataError: When channels, dtypes or fields differ between samples.
    """
    import torch

    first = samples[0]
    size = max(sample.size[0] for sample in samples), max(sample.size[1] for sample in samples)
    if len(kinds := {_kind(sample): sample.meta.get("path") for sample in samples}) > 1:
        raise DataError(f"one batch cannot hold {' and '.join(reversed(kinds))}", [*kinds.values()][-1])
    images = np.zeros((len(samples), *first.image.shape[2:], *size), first.image.dtype)
    for planes, pixels in zip(images, (sample.image for sample in samples)):
        window = planes[:, : pixels.shape[0], : pixels.shape[1]]
        if len(window) <= 4 and pixels.dtype.name in OPENCV_DTYPES:  # OpenCV takes a fraction of the time
            opencv().split(pixels, list(window))
        else:
            window[:] = np.moveaxis(pixels, 2, 0)
    sizes, seeds = [sample.size for sample in samples], [sample.meta.get("seed") for sample in samples]
    fields = {name: first[name].stack([s.fields[name] for s in samples], size) for name in first}
    return Batch(
        images=torch.from_numpy(images),
        targets=Targets(fields, {"sizes": sizes, "seeds": seeds}),
        sizes=sizes,
        meta=[sample.meta for sample in samples],
        original_sizes=[sample.original_size or sample.size for sample in samples],
        device_steps=[sample.device_steps for sample in samples],
        replaced=[message for sample in samples for message in sample.replaced],
    )


def as_targets(sample: Sample) -> Targets:
    """Return the fields of one sample as tensors of the same dtypes."""
    return Targets({name: value.tensor() for name, value in sample.fields.items()}, dict(sample.meta))


def _kind(sample: Sample) -> str:
    """Describe what all samples of a batch must have in common."""
    image = sample.image
    return f"{image.shape[2]} channels {image.dtype} and fields {', '.join(sorted(sample)) or 'none'}"
