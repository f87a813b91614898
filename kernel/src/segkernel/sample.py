"""Samples and what becomes of them: an image with named fields, a batch, its targets, a prediction.

A field has a kind, and the kind knows how a geometric change acts on it; so a transform is written once and moves the
image and every field together:

    sample.apply(Flip("horizontal"))

Geometry is planned and carried out when somebody looks: a crop after a resize costs its own window only.

Colour order is RGB, images are (H, W, C) arrays, points are (x, y) in pixels with (0, 0) at the outer corner of the
first pixel. No torch is imported until `collate` is called.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from segkernel.errors import DataError
from segkernel.image import opencv
from segkernel.interfaces.data import IGNORE

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Self

Size = tuple[int, int]
"""Height and width in pixels."""


# ---------------------------------------------------------------- geometry


class Geometry:
    """A change of where pixels are: planned first, then applied to the image and to every field."""

    def size(self, size: Size) -> Size:
        """Return the size after the change of an image of ``size``."""
        raise NotImplementedError

    def matrix(self, size: Size) -> np.ndarray:
        """Return the (3, 3) float64 matrix that moves homogeneous points (x, y, 1)."""
        raise NotImplementedError

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        """Return the changed (H, W) or (H, W, C) array; ``interpolation`` is OpenCV's flag."""
        raise NotImplementedError


@dataclass(frozen=True)
class Resize(Geometry):
    """Scale to ``(height, width)``, and make only the window ``part`` of that when it is given."""

    to: Size
    part: Crop | None = None

    def size(self, size: Size) -> Size:
        return self.part.size(self.to) if self.part else self.to

    def matrix(self, size: Size) -> np.ndarray:
        scale = np.diag([self.to[1] / size[1], self.to[0] / size[0], 1.0])
        return self.part.matrix(self.to) @ scale if self.part else scale

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        if self.part and array.shape[:2] != tuple(self.to):
            if interpolation == NEAREST:
                return _picked(array, self.to, self.part)
            saved = self.to[0] * self.to[1] - 1.3 * self.part.height * self.part.width
            if interpolation == LINEAR and saved > 2**16:  # for less, the whole and exact one is as fast
                window = _window(array, self.to, self.part)
                if window is not None:
                    return window
        changed = self._whole(array, interpolation, fill)
        return self.part.raster(changed, interpolation, fill) if self.part else changed

    def _whole(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        if array.shape[:2] == tuple(self.to):
            return array
        resize, size = opencv().resize, (self.to[1], self.to[0])
        return _sampled(array, fill, self.to, lambda part, border: resize(part, size, interpolation=interpolation))


def _picked(array: np.ndarray, to: Size, part: Crop) -> np.ndarray:
    """Return a window of the array resized to its nearest pixels, exactly as OpenCV chooses them."""

    def places(length: int, new: int, window: slice) -> np.ndarray:
        ramp = np.arange(length, dtype=np.float32)[None]
        return opencv().resize(ramp, (new, 1), interpolation=NEAREST)[0, window].astype(np.intp)

    rows, columns = (places(array.shape[axis], to[axis], part.window[axis]) for axis in (0, 1))
    near = array[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return near[rows - rows[0]].take(columns - columns[0], 1)


def _window(array: np.ndarray, to: Size, part: Crop) -> np.ndarray | None:
    """Return a window of the linearly resized array, within a grey level, reading only what it needs.

    Resizing a part gives the same pixels when its first one begins where one of the whole image does; a little before
    the window there is nearly always such a place. None when there is none.
    """
    found: list[tuple[int, int, int]] = []
    for length, new, window in zip(array.shape, to, part.window):
        start = _common_start(window.start, length / new)
        if start is None:
            return None
        found.append((*start, min(int(window.stop * length / new) + 3, length)))
    (top, y, bottom), (left, x, right) = found
    fx, fy = to[1] / array.shape[1], to[0] / array.shape[0]
    size = round((bottom - y) * fy), round((right - x) * fx)
    resize = opencv().resize
    near = _sampled(array[y:bottom, x:right], 0, size, lambda near, _: resize(near, None, fx=fx, fy=fy))
    return near[part.top - top :, part.left - left :][: part.height, : part.width]


_REACH, _APART = 96, 1 / 64  # OpenCV's own warps are no finer


def _common_start(start: int, ratio: float) -> tuple[int, int] | None:
    """Return a pixel before ``start`` and the source pixel that begins where it does, ``ratio`` to one."""
    last = start - int(0.5 / ratio) - 2  # so that no pixel of the window lies on the part's border
    if last <= 0:
        return 0, 0
    pixels = np.arange(last, max(last - _REACH, -1), -1)
    places = pixels * ratio
    apart = np.abs(places - np.rint(places))
    best = int(apart.argmin())
    return (int(pixels[best]), round(places[best])) if apart[best] <= _APART else None


@dataclass(frozen=True)
class Crop(Geometry):
    """Cut the window of ``height`` x ``width`` whose first pixel is (top, left); it must lie inside."""

    top: int
    left: int
    height: int
    width: int

    def size(self, size: Size) -> Size:
        return self.height, self.width

    def matrix(self, size: Size) -> np.ndarray:
        return _translation(-self.left, -self.top)

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        return array[self.window]


@dataclass(frozen=True)
class Flip(Geometry):
    """Mirror left-right (``horizontal``), top-bottom (``vertical``) or both (``diagonal``)."""

    direction: Literal["horizontal", "vertical", "diagonal"] = "horizontal"

    def size(self, size: Size) -> Size:
        return size

    def matrix(self, size: Size) -> np.ndarray:
        matrix = np.eye(3)
        if self.direction != "vertical":
            matrix[0] = [-1, 0, size[1]]
        if self.direction != "horizontal":
            matrix[1] = [0, -1, size[0]]
        return matrix

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        if array.dtype == np.uint8 and (array.ndim == 2 or 0 < array.shape[2] <= 4):  # what OpenCV does far faster
            code = {"horizontal": 1, "vertical": 0, "diagonal": -1}[self.direction]
            return opencv().flip(array, code).reshape(array.shape)
        rows = slice(None, None, 1 if self.direction == "horizontal" else -1)
        columns = slice(None, None, 1 if self.direction == "vertical" else -1)
        return array[rows, columns]


@dataclass(frozen=True)
class Pad(Geometry):
    """Add borders, in pixels; an image's are filled with ``fill`` (one, or one per channel), a field's with its own."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0
    fill: float | tuple[float, ...] = 0

    def size(self, size: Size) -> Size:
        return size[0] + self.top + self.bottom, size[1] + self.left + self.right

    def matrix(self, size: Size) -> np.ndarray:
        return _translation(self.left, self.top)

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        height, width = self.size(array.shape[:2])
        padded = np.full((height, width, *array.shape[2:]), fill, array.dtype)
        padded[self.top : self.top + array.shape[0], self.left : self.left + array.shape[1]] = array
        return padded


@dataclass(frozen=True)
class Warp(Geometry):
    """Any affine change: ``affine`` (3, 3) moves points, ``to`` is the resulting (height, width)."""

    affine: np.ndarray
    to: Size
    fill: float | tuple[float, ...] = 0

    def size(self, size: Size) -> Size:
        return self.to

    def matrix(self, size: Size) -> np.ndarray:
        return self.affine

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        # OpenCV counts from the centre of the first pixel, we count from its corner.
        centred = (_translation(-0.5, -0.5) @ self.affine @ _translation(0.5, 0.5))[:2]
        warp, size = opencv().warpAffine, (self.to[1], self.to[0])

        def change(part: np.ndarray, border: tuple[float, ...]) -> np.ndarray:
            return warp(part, centred, size, flags=interpolation, borderValue=border)

        return _sampled(array, fill, self.to, change)


NEAREST, LINEAR = 0, 1  # OpenCV's INTER_NEAREST and INTER_LINEAR, without importing it
_SAMPLED = ("uint8", "uint16", "int16", "float32", "float64")


def _sampled(
    array: np.ndarray,
    fill: float | tuple[float, ...],
    to: Size,
    change: Callable[[np.ndarray, tuple[float, ...]], np.ndarray],
) -> np.ndarray:
    """Apply an OpenCV function to an array of any dtype and number of channels: it takes few, and four at a time."""
    ready = array if array.dtype.name in _SAMPLED else array.astype(np.float64)
    channels = array.shape[2] if array.ndim == 3 else 1
    border = tuple(np.broadcast_to(np.asarray(fill, np.float64), max(channels, 4 if np.ndim(fill) == 0 else 0)))
    if 0 < channels <= 4:
        return change(ready, border).reshape(*to, *array.shape[2:]).astype(array.dtype, copy=False)
    changed = np.empty((*to, channels), array.dtype)
    for first in range(0, channels, 4):
        part = slice(first, first + 4)
        changed[..., part] = change(ready[..., part], border[part]).reshape(*to, -1)
    return changed


def _translation(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


@dataclass
class _Raster:
    """An array and the changes planned for it, which are made when it is looked at."""

    source: np.ndarray
    steps: tuple[Geometry, ...] = ()

    @property
    def size(self) -> Size:
        size: Size = self.source.shape[:2]
        for step in self.steps:
            size = step.size(size)
        return size

    def then(self, step: Geometry) -> _Raster:
        return _Raster(self.source, _plan(self.steps, step, self.size))

    def array(self, interpolation: int, fill: float | None = None) -> np.ndarray:
        """Return the changed array; ``fill`` is each step's own when None."""
        array = self.source
        for step in self.steps:
            array = step.raster(array, interpolation, getattr(step, "fill", 0) if fill is None else fill)
        self.source, self.steps = array, ()
        return array


def _plan(steps: tuple[Geometry, ...], new: Geometry, size: Size) -> tuple[Geometry, ...]:
    """Add a change to those planned for an image now of ``size``: a crop goes before flips, and into a resize."""
    *before, last = steps or (None,)
    if isinstance(new, Crop) and isinstance(last, Flip):
        if last.direction != "vertical":
            new = replace(new, left=size[1] - new.left - new.width)
        if last.direction != "horizontal":
            new = replace(new, top=size[0] - new.top - new.height)
        return *_plan(tuple(before), new, size), last
    if isinstance(new, Crop) and isinstance(last, Resize):
        outer = last.part or Crop(0, 0, *last.to)
        return *before, replace(last, part=replace(new, top=outer.top + new.top, left=outer.left + new.left))
    return *steps, new


# ---------------------------------------------------------------- fields


@dataclass
class Field:
    """Something known about an image that moves with it."""

    array: np.ndarray

    def apply(self, geometry: Geometry, size: Size) -> Field:
        """Return the field after ``geometry`` changed an image of ``size``."""
        raise NotImplementedError


class RasterField(Field):
    """A value per pixel, (H, W) or (H, W, C)."""

    interpolation: ClassVar[int] = NEAREST
    fill: ClassVar[float] = 0

    @property
    def array(self) -> np.ndarray:
        """The values, after what was planned for them."""
        return self._raster.array(self.interpolation, self.fill)

    @array.setter
    def array(self, array: np.ndarray) -> None:
        self._raster = _Raster(array)

    def apply(self, geometry: Geometry, size: Size) -> Field:
        if self._raster.size != tuple(size):
            raise DataError(f"a {type(self).__name__} of {self._raster.size} for an image of {tuple(size)} pixels")
        changed = copy.copy(self)
        changed._raster = self._raster.then(geometry)
        return changed


class LabelMap(RasterField):
    """Class ids, uint8; `IGNORE` where unknown."""

    fill = IGNORE


class MultiLabelMap(LabelMap):
    """Yes (1) or no (0) for every class, (H, W, K) uint8; `IGNORE` where unknown. As a tensor it is (K, H, W)."""


class WeightMap(RasterField):
    """How much a pixel counts in a loss, float32 from 0."""

    interpolation = LINEAR


class EdgeMap(RasterField):
    """1 on the borders between classes, uint8."""


class DepthMap(RasterField):
    """Metres, float32; 0 where unknown."""


class InstanceMasks(RasterField):
    """One plane per object, (H, W, objects) uint8."""


class Boxes(Field):
    """(objects, 4) float32: left, top, right, bottom in pixels."""

    def apply(self, geometry: Geometry, size: Size) -> Field:
        left, top, right, bottom = self.array.reshape(-1, 4).T
        corners = np.stack([left, top, right, top, right, bottom, left, bottom], 1).reshape(-1, 4, 2)
        moved = _move(corners, geometry.matrix(size))
        height, width = geometry.size(size)
        box = np.concatenate([moved.min(1), moved.max(1)], 1)
        return replace(self, array=box.clip(0, [width, height, width, height]).astype(np.float32))


class Keypoints(Field):
    """(objects, points, 3) float32: x, y, visibility (0 when outside)."""

    def apply(self, geometry: Geometry, size: Size) -> Field:
        points = self.array.copy()
        points[..., :2] = _move(points[..., :2], geometry.matrix(size))
        height, width = geometry.size(size)
        inside = (points[..., :2] >= 0).all(-1) & (points[..., 0] < width) & (points[..., 1] < height)
        points[..., 2] *= inside
        return replace(self, array=points)


def _move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


# ---------------------------------------------------------------- what holds them


class _Tensors:
    """What holds tensors: all of them can be moved at once."""

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
    """Values by name, which can be added, read with `get`, and removed."""

    fields: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.fields[name] = value

    def __delitem__(self, name: str) -> None:
        del self.fields[name]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field ``name``, or ``default``."""
        return self.fields.get(name, default)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return a copy with ``function`` applied to every tensor."""
        return replace(self, fields={name: _map(value, function) for name, value in self.fields.items()})


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, list):
        return [_map(entry, function) for entry in value]
    return value if isinstance(value, np.ndarray) or not hasattr(value, "detach") else function(value)


@dataclass
class _Pictured(_Named):
    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    moved: str = ""


class Sample(_Pictured):
    """One image (H, W, C), uint8 RGB as a rule, with its `Field` objects; the ordinary label map is the field ``seg``.

    ``meta`` holds what describes it: ``path``, ``name`` (without suffix), ``original_size`` (set by the loader).
    ``moved`` names the last change of geometry that was more than a resize; empty when the whole image is still there.
    """

    @property
    def image(self) -> np.ndarray:
        """The pixels, after what was planned for them."""
        return self._raster.array(LINEAR)

    @image.setter
    def image(self, image: np.ndarray) -> None:
        self._raster = _Raster(image)

    @property
    def size(self) -> Size:
        """Height and width of the image."""
        return self._raster.size

    def apply(self, geometry: Geometry) -> Sample:
        """Plan ``geometry`` for the image and every field; return self. Reading them carries it out."""
        size = self.size
        self.fields = {name: value.apply(geometry, size) for name, value in self.fields.items()}
        self._raster = self._raster.then(geometry)
        if not isinstance(geometry, Resize):
            self.moved = type(geometry).__name__
        return self

    def carry_out(self) -> Sample:
        """Make every planned change now; return self."""
        _ = self.image, [value.array for value in self.fields.values()]  # reading carries it out
        return self


@dataclass
class Targets(_Named):
    """What a batch, or one image, should give: ``targets["seg"]`` is (N, H, W), or (H, W), class ids.

    A multi-label map is (N, K, H, W), or (K, H, W).

    Label maps travel as uint8; the preprocessor makes them int64 on the device.

    Raster fields are tensors padded to the batch's size, other fields lists of one tensor per image.
    """


@dataclass
class Prediction(_Named):
    """What a model says of one image, at its original size.

    For each output ``NAME`` of the segmentor: ``NAME`` (H, W) class ids, or (K, H, W) of yes (1) and no (0) where the
    task is ``multilabel``, and, when they were asked for, ``NAME_scores`` (K, H, W) float probabilities.
    """

    @property
    def labels(self) -> Tensor:
        """The label map of the main output."""
        return self.fields["seg"]


@dataclass
class Batch(_Tensors):
    """Images of one step: (N, C, H, W) as they left the transforms (uint8 as a rule), padded to one size.

    ``sizes`` are the true sizes inside the padding, ``meta`` the samples' own; in evaluation ``truths`` holds the
    annotations of each image at its original size.
    """

    images: Tensor
    targets: Targets = field(default_factory=Targets)
    sizes: list[Size] = field(default_factory=list)
    meta: list[dict[str, Any]] = field(default_factory=list)
    truths: list[Targets] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return a copy with ``function`` applied to every tensor."""
        truths = [truth.map(function) for truth in self.truths]
        return replace(self, images=function(self.images), targets=self.targets.map(function), truths=truths)

    def pin_memory(self) -> Self:
        """Return a copy in page-locked memory, for a faster way to the device."""
        return self.map(lambda tensor: tensor.pin_memory())


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples into one `Batch`, padded at the bottom and right to the largest of them.

    Images are padded with 0, fields with their kind's fill; the preprocessor sets what lies outside ``sizes`` anew.

    Raises:
        DataError: When channels, dtypes or fields differ between samples.
    """
    import torch

    first = samples[0]
    height, width = (max(sample.size[axis] for sample in samples) for axis in (0, 1))
    for sample in samples:
        if sample.image.shape[2:] != first.image.shape[2:] or sample.image.dtype != first.image.dtype:
            theirs, ours = _describe(sample.image), _describe(first.image)
            raise DataError(f"a batch cannot hold images of {theirs} and of {ours}", sample.meta.get("path"))
        if sample.fields.keys() != first.fields.keys():
            raise DataError(f"fields {sorted(sample)} beside {sorted(first)} in one batch", sample.meta.get("path"))
    images = np.zeros((len(samples), *first.image.shape[2:], height, width), first.image.dtype)
    for planes, sample in zip(images, samples):
        for plane, channel in zip(planes, _channels(sample.image)):
            plane[: sample.size[0], : sample.size[1]] = channel
    targets = {name: _collate_field([s.fields[name] for s in samples], height, width) for name in first}
    return Batch(
        images=torch.from_numpy(images),
        targets=Targets(targets),
        sizes=[sample.size for sample in samples],
        meta=[sample.meta for sample in samples],
    )


def as_targets(sample: Sample) -> Targets:
    """Return the fields of one sample as tensors of the dtype they have."""
    import torch

    tensors = {name: torch.from_numpy(np.ascontiguousarray(_laid_out(value))) for name, value in sample.fields.items()}
    return Targets(tensors, dict(sample.meta))


def _collate_field(values: list[Field], height: int, width: int) -> Any:
    import torch

    first = values[0]
    if isinstance(first, RasterField) and not isinstance(first, InstanceMasks):
        padded = [replace(v, array=_pad_to(v.array, height, width, first.fill)) for v in values]
        return torch.from_numpy(np.stack([_laid_out(v) for v in padded]))
    return [torch.from_numpy(np.ascontiguousarray(v.array)) for v in values]


def _laid_out(value: Field) -> np.ndarray:
    """Return the array of a field as its tensor has it: classes come before rows."""
    return np.moveaxis(value.array, 2, 0) if isinstance(value, MultiLabelMap) else value.array


def _channels(image: np.ndarray) -> Sequence[np.ndarray]:
    """Return the channels (H, W) of an image, by OpenCV where it can: a strided copy takes several times as long."""
    return list(opencv().split(image) if image.dtype.name in _SAMPLED else np.moveaxis(image, 2, 0))


def _pad_to(array: np.ndarray, height: int, width: int, fill: float) -> np.ndarray:
    if array.shape[:2] == (height, width):
        return array
    return Pad(bottom=height - array.shape[0], right=width - array.shape[1]).raster(array, NEAREST, fill)


def _describe(image: np.ndarray) -> str:
    return f"{image.shape[2] if image.ndim == 3 else 1} channels {image.dtype}"
