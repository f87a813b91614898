"""Layers of samples on a canvas, on which all mixing transforms are built.

    lay([Layer(street), Layer(other, top=40, left=60, mask=cars)], street.size)

Later layers cover earlier ones. Fields combine by their kind: values per pixel are taken from the topmost layer, or are
the kind's fill where there is none; objects (masks, boxes, keypoints) are concatenated, fully occluded ones dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segkernel.errors import DataError
from segkernel.image import opencv
from segkernel.labels import IGNORE
from segkernel.sample import Field, ObjectField, RasterField, Sample, Size
from segplug_datasets import geometry
from segplug_datasets.annotations.raster import Region
from segplug_datasets.transforms.windowed_resize import WindowedResize

_MASK_BYTES = 2**26  # of the masks of objects that are rasterised together


@dataclass(frozen=True)
class Layer:
    """A sample and its place on the canvas, which must contain it.

    Args:
        sample: The sample.
        top: Row of its first pixel on the canvas.
        left: Column of its first pixel on the canvas.
        mask: (H, W) bool, the pixels that are opaque; all of them when None.
    """

    sample: Sample
    top: int = 0
    left: int = 0
    mask: np.ndarray | None = None

    @property
    def window(self) -> tuple[slice, slice]:
        """The part of the canvas under it."""
        height, width = self.sample.size
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def composite(
    layers: Sequence[Layer],
    size: Size,
    pad_val: float | tuple[float, ...] = 0,
    seg_pad_val: int | None = None,
) -> Sample:
    """Return the first layer's sample, with the composition of all layers on a canvas of ``size``.

    Args:
        layers: From the bottom to the top.
        size: Height and width of the canvas.
        pad_val: Fill value of the image where no layer is.
        seg_pad_val: Fill value of label maps there; 255 when None.

    Raises:
        DataError: When a layer lacks a field of the first, or its image or fields have another type.
    """
    first = layers[0].sample
    for layer in layers[1:]:
        require_same_kinds(first, layer.sample, first)
    picture = RasterField(first.image).overlay(
        [(RasterField(layer.sample.image), layer.window, layer.mask) for layer in layers], size, pad_val
    )
    objects = objects_of(first)
    changed: dict[str, Field] = dict(_listed(layers, size, list(objects)) if objects else {})
    for name in [name for name in first if name not in objects]:
        fill = seg_pad_val if getattr(first[name], "fill", 0) == IGNORE else None
        parts = [(layer.sample[name], layer.window, layer.mask) for layer in layers]
        changed[name] = first[name].overlay(parts, size, fill)
    first.image = picture.array
    first.fields = {name: changed[name] for name in first}
    return first


def shallow_copy(sample: Sample) -> Sample:
    """Return a shallow copy: its fields can be replaced without changing the given sample."""
    return replace(sample, fields=dict(sample.fields), meta=dict(sample.meta))


def objects_of(sample: Sample) -> dict[str, ObjectField]:
    """Return the fields that list the sample's objects."""
    return {name: field for name, field in sample.fields.items() if isinstance(field, ObjectField)}


def select_objects(sample: Sample, keep: np.ndarray) -> Sample:
    """Return a copy with the objects ``keep``, indices or booleans, only."""
    kept = shallow_copy(sample)
    for name, field in objects_of(sample).items():
        kept[name] = field.select(keep)
    return kept


def object_regions(sample: Sample) -> Iterator[Region] | None:
    """Return the pixels of each object in turn; None if no field has masks."""
    fields = objects_of(sample).values()
    field = next((each for each in fields if each.select(np.zeros(0, int)).masks((1, 1)) is not None), None)
    if field is None:
        return None
    if hasattr(field, "regions"):  # without drawing whole masks
        return iter(field.regions(sample.size))
    parts = (field.select(part).masks(sample.size) for part in _parts(field.count, sample.size))
    return (Region(0, 0, mask > 0) for part in parts if part is not None for mask in np.moveaxis(part, 2, 0))


def resize_and_crop(sample: Sample, size: Size, rng: np.random.Generator) -> Sample:
    """Fit a sample to ``size``: scaled up in proportion where it is smaller, then a random window of it."""
    factor = max(1.0, size[0] / sample.size[0], size[1] / sample.size[1])
    if factor > 1:
        height, width = (max(goal, round(edge * factor)) for goal, edge in zip(size, sample.size))
        sample.apply(WindowedResize((height, width)))
    return window(sample, size, rng)


def window(sample: Sample, size: Size, rng: np.random.Generator) -> Sample:
    """Cut a random window of ``size``, or of what there is in a direction in which the sample is smaller."""
    height, width = (min(edge, goal) for edge, goal in zip(sample.size, size))
    top, left = int(rng.integers(sample.size[0] - height + 1)), int(rng.integers(sample.size[1] - width + 1))
    if (height, width) == sample.size:
        return sample
    return sample.apply(geometry.Crop(top, left, height, width))


def require_same_kinds(first: Sample, other: Sample, names: Iterable[str]) -> None:
    """Check that images have the same channels and dtype, and samples have the fields ``names`` of the first."""
    path = other.meta.get("path")
    if other.image.shape[2:] != first.image.shape[2:] or other.image.dtype != first.image.dtype:
        here, there = ((sample.image.shape[2:], str(sample.image.dtype)) for sample in (first, other))
        message = f"images of {there} cannot be mixed into one of {here} (channels, type)"
        raise DataError(f"{message}\n    put transforms that change the type, such as DetectionResize, after it", path)
    for name in names:
        if name not in other:
            message = f"it has no field {name!r} to mix: put the transform that makes that field after the mixing one"
            raise DataError(message, path)
        if type(other[name]) is not type(first[name]):
            kinds = type(other[name]).__name__, type(first[name]).__name__
            raise DataError(f"its field {name!r} is a {kinds[0]}, that of the other image a {kinds[1]}", path)


def _listed(layers: Sequence[Layer], size: Size, names: Sequence[str]) -> dict[str, ObjectField]:
    """Return the object fields of all layers, concatenated, without occluded parts."""
    top_layer = np.full(size, -1, np.int16)
    for number, layer in enumerate(layers):
        part = top_layer[layer.window]
        part[... if layer.mask is None else layer.mask] = number
    found = [_seen(layer, size, names, top_layer == number) for number, layer in enumerate(layers)]
    return {name: found[0][name].join([fields[name] for fields in found]) for name in names}


def _seen(layer: Layer, size: Size, names: Sequence[str], visible: np.ndarray) -> dict[str, ObjectField]:
    """Return the object fields of a layer in canvas coordinates, without occluded parts."""
    height, width = layer.sample.size
    shift = geometry.Pad(layer.top, layer.left, size[0] - height - layer.top, size[1] - width - layer.left)
    fields: dict[str, ObjectField] = {name: layer.sample[name].apply(shift, layer.sample.size) for name in names}
    counts = {name: field.count for name, field in fields.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"its fields disagree on the number of objects: {counts}", layer.sample.meta.get("path"))
    groups = _near_each_other(fields, visible)
    found = [_visible_in(fields, visible, group, window) for group, window in groups]
    order = np.argsort(np.concatenate([numbers for numbers, _ in found]), kind="stable")
    return {name: found[0][1][name].join([part[name] for _, part in found]).select(order) for name in names}


Window = tuple[slice, slice]


def _near_each_other(
    fields: Mapping[str, ObjectField], visible: np.ndarray
) -> Iterator[tuple[np.ndarray, Window | None]]:
    """Yield groups of objects and the window that holds each; no window for those that nothing covers; at least one.

    Fields that know how far each object extends (``extents``) save drawing all masks on the whole canvas.
    """
    size, count = (visible.shape[0], visible.shape[1]), next(iter(fields.values())).count
    if not all(hasattr(field, "extents") for field in fields.values()):
        whole = slice(0, size[0]), slice(0, size[1])
        yield from ((part, whole) for part in _parts(count, size))
        return
    extents = np.stack([field.extents() for field in fields.values()])  # type: ignore[attr-defined]
    low, high = np.fmin.reduce(extents[..., :2]), np.fmax.reduce(extents[..., 2:])
    nowhere = np.isnan(low[:, 0])
    low, high = np.nan_to_num(low), np.nan_to_num(high)
    left, top = np.floor(low).clip(0, size[::-1]).astype(int).T
    right, bottom = np.ceil(high).clip(0, size[::-1]).astype(int).T
    covered = opencv().integral((~visible).view(np.uint8))  # covered[y, x]: pixels above and left of there
    hidden = covered[bottom, right] - covered[top, right] - covered[bottom, left] + covered[top, left] > 0
    inside = (left < right) & (top < bottom)
    yield np.flatnonzero(nowhere | (inside & ~hidden)), None
    for number in np.flatnonzero(inside & hidden).tolist():
        yield np.array([number]), (slice(top[number], bottom[number]), slice(left[number], right[number]))


def _visible_in(
    fields: Mapping[str, ObjectField], visible: np.ndarray, group: np.ndarray, window: Window | None
) -> tuple[np.ndarray, dict[str, ObjectField]]:
    """Return the numbers and the fields of those objects of a group that are visible, without occluded parts."""
    chosen = {name: field.select(group) for name, field in fields.items()}
    if window is None:
        return group, chosen
    (height, width), (rows, columns) = visible.shape, window
    cut = geometry.Crop(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
    back = geometry.Pad(rows.start, columns.start, height - rows.stop, width - columns.stop)
    near = visible[window]
    chosen = {name: field.apply(cut, (height, width)) for name, field in chosen.items()}
    masks = {name: mask for name, field in chosen.items() if (mask := field.masks(near.shape)) is not None}
    # Masks show the visible part of an object; boxes can only estimate it.
    kept = np.logical_and.reduce([chosen[name].remaining(near) for name in masks or chosen])
    first_masks = next(iter(masks.values()), None)
    left_over = {name: field.occlude(near, first_masks).select(kept) for name, field in chosen.items()}
    return group[kept], {name: field.apply(back, near.shape) for name, field in left_over.items()}


def _parts(count: int, size: Size) -> Iterator[np.ndarray]:
    """Yield the numbers of so many objects at once that their masks take little memory; at least once."""
    step = max(1, _MASK_BYTES // max(1, size[0] * size[1]))
    yield from (np.arange(first, min(first + step, count)) for first in range(0, max(count, 1), step))
