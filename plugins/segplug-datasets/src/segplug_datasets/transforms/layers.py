"""Lay samples over one another: what all transforms that mix several images are made of.

    lay([Layer(street), Layer(other, top=40, left=60, mask=cars)], street.size)

Later layers cover earlier ones. Every field moves by its kind: values per pixel are taken from the layer that is seen
there, objects (masks, boxes, key points) are listed one layer after the other, and those of which nothing is left to
see are dropped. Labels are the layers' own, or the kind's fill where there is no layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segkernel import geometry
from segkernel.errors import DataError
from segkernel.sample import Boxes, Field, InstanceMasks, Keypoints, LabelMap, RasterField, Sample, Size


@dataclass(frozen=True)
class Layer:
    """A sample and where its first pixel lies; it must lie inside the canvas.

    Args:
        sample: What is laid.
        top: Row of the canvas.
        left: Column of the canvas.
        mask: (H, W) bool, which of its pixels are laid; all of them when None.
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


def lay(
    layers: Sequence[Layer],
    size: Size,
    pad_val: float | tuple[float, ...] = 0,
    seg_pad_val: int | None = None,
) -> Sample:
    """Return the first layer's sample, changed to what the layers make on a canvas of ``size``.

    Args:
        layers: From the bottom to the top.
        size: Height and width of the canvas.
        pad_val: What fills the image where no layer lies.
        seg_pad_val: What fills label maps there; 255 when None.

    Raises:
        DataError: When a layer lacks a field of the first, or its images or fields are of another sort.
    """
    first = layers[0].sample
    for layer in layers[1:]:
        refuse_others(first, layer.sample, first)
    image = _painted(layers, [layer.sample.image for layer in layers], size, pad_val)
    objects = [name for name in first if not _is_raster(first[name])]
    changed: dict[str, Field] = {}
    for name in first:
        if name not in objects:
            kind: Any = first[name]
            fill = seg_pad_val if seg_pad_val is not None and isinstance(kind, LabelMap) else kind.fill
            changed[name] = replace(
                kind, array=_painted(layers, [layer.sample[name].array for layer in layers], size, fill)
            )
    if objects:
        changed |= _listed(layers, size, objects)
    first.image = image
    for name, value in changed.items():
        first[name] = value
    return first


def copied(sample: Sample) -> Sample:
    """Return a sample of its own with the same arrays, for changes that the given one must not see."""
    return replace(sample, fields=dict(sample.fields), meta=dict(sample.meta))


def with_objects(sample: Sample, rows: np.ndarray) -> Sample:
    """Return a copy with the objects ``rows``, indices or booleans, only."""
    kept = copied(sample)
    for name in sample:
        if not _is_raster(sample[name]):
            kept[name] = _rows(sample[name], rows)
    return kept


def covering(sample: Sample, size: Size, rng: np.random.Generator) -> Sample:
    """Fit a sample to ``size``: scaled up in proportion where it is smaller, then a random window of it."""
    factor = max(1.0, size[0] / sample.size[0], size[1] / sample.size[1])
    if factor > 1:
        height, width = (max(goal, round(edge * factor)) for goal, edge in zip(size, sample.size))
        sample.apply(geometry.Resize((height, width)))
    return window(sample, size, rng)


def window(sample: Sample, size: Size, rng: np.random.Generator) -> Sample:
    """Cut a random window of ``size``, or of what there is in a direction in which the sample is smaller."""
    height, width = (min(edge, goal) for edge, goal in zip(sample.size, size))
    top, left = int(rng.integers(sample.size[0] - height + 1)), int(rng.integers(sample.size[1] - width + 1))
    if (height, width) == sample.size:
        return sample
    return sample.apply(geometry.Crop(top, left, height, width))


def _is_raster(field: Field) -> bool:
    """Whether it has one value per pixel; other kinds have an entry per object, instance masks too."""
    return isinstance(field, RasterField) and not isinstance(field, InstanceMasks)


def refuse_others(first: Sample, other: Sample, names: Iterable[str]) -> None:
    """Refuse to mix images of other channels or types, and samples without the fields ``names`` of the first."""
    path = other.meta.get("path")
    if other.image.shape[2:] != first.image.shape[2:] or other.image.dtype != first.image.dtype:
        here, there = ((sample.image.shape[2:], str(sample.image.dtype)) for sample in (first, other))
        raise DataError(f"images of {there} cannot be mixed into one of {here} (channels, type)", path)
    for name in names:
        if name not in other:
            message = f"it has no field {name!r} to mix: let what makes that field come after the mixing"
            raise DataError(message, path)
        if type(other[name]) is not type(first[name]):
            kinds = type(other[name]).__name__, type(first[name]).__name__
            raise DataError(f"its field {name!r} is a {kinds[0]}, that of the other image a {kinds[1]}", path)


def _painted(layers: Sequence[Layer], arrays: Sequence[np.ndarray], size: Size, fill: Any) -> np.ndarray:
    canvas = np.full((*size, *arrays[0].shape[2:]), fill, arrays[0].dtype)
    for layer, array in zip(layers, arrays):
        if layer.mask is None:
            canvas[layer.window] = array
        else:
            mask = layer.mask if array.ndim == 2 else layer.mask[..., None]
            np.copyto(canvas[layer.window], array, where=mask)
    return canvas


# ---------------------------------------------------------------- objects


def _listed(layers: Sequence[Layer], size: Size, names: Sequence[str]) -> dict[str, Field]:
    top_layer = np.full(size, -1, np.int16)
    for number, layer in enumerate(layers):
        part = top_layer[layer.window]
        part[... if layer.mask is None else layer.mask] = number
    found = [_seen(layer, size, names, top_layer == number) for number, layer in enumerate(layers)]
    return {name: _joined([fields[name] for fields in found]) for name in names}


def _seen(layer: Layer, size: Size, names: Sequence[str], visible: np.ndarray) -> dict[str, Field]:
    """Return the object fields of a layer at their place in the canvas: what is covered is taken away."""
    height, width = layer.sample.size
    shift = geometry.Pad(layer.top, layer.left, size[0] - height - layer.top, size[1] - width - layer.left)
    fields = {name: layer.sample[name].apply(shift, layer.sample.size) for name in names}
    counts = {name: _count(value) for name, value in fields.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"its fields disagree on the number of objects: {counts}", layer.sample.meta.get("path"))
    masks = next((value.array for value in fields.values() if isinstance(value, InstanceMasks)), None)
    kept = np.ones(next(iter(counts.values())), bool)
    for name, value in fields.items():
        if isinstance(value, InstanceMasks):
            fields[name] = replace(value, array=value.array * visible[..., None].astype(value.array.dtype))
            kept = fields[name].array.any((0, 1))
        elif isinstance(value, Boxes):
            if masks is None:
                kept = _half_visible(value.array, visible)
            else:
                fields[name] = replace(value, array=_tightened(value.array, masks, visible))
        elif isinstance(value, Keypoints):
            fields[name] = replace(value, array=_hidden(value.array, visible))
    return {name: _rows(value, kept) for name, value in fields.items()}


def _half_visible(boxes: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Return which boxes (objects, 4) are seen to at least a half: without masks no more is known."""
    kept = np.zeros(len(boxes), bool)
    for number, (left, top, right, bottom) in enumerate(boxes):
        part = visible[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
        kept[number] = part.size > 0 and part.mean() >= 0.5
    return kept


def _tightened(boxes: np.ndarray, masks: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Return the boxes, those of partly covered objects drawn around what is left."""
    boxes = boxes.copy()
    for number in range(len(boxes)):
        mask = masks[..., number] > 0
        left_over = mask & visible
        if left_over.any() and not np.array_equal(left_over, mask):
            rows, columns = np.flatnonzero(left_over.any(1)), np.flatnonzero(left_over.any(0))
            boxes[number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _hidden(points: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Return key points with those that are covered marked 1, COCO's "labelled, not visible"."""
    points = points.copy()
    columns, rows = (points[..., axis].astype(int).clip(0, visible.shape[1 - axis] - 1) for axis in (0, 1))
    points[..., 2] = np.where(visible[rows, columns], points[..., 2], np.minimum(points[..., 2], 1))
    return points


def _count(field: Field) -> int:
    return field.array.shape[2] if isinstance(field, InstanceMasks) else len(field.array)


def _rows(field: Field, rows: np.ndarray) -> Field:
    return replace(field, array=field.array[..., rows] if isinstance(field, InstanceMasks) else field.array[rows])


def _joined(fields: Sequence[Field]) -> Field:
    axis = 2 if isinstance(fields[0], InstanceMasks) else 0
    return replace(fields[0], array=np.concatenate([value.array for value in fields], axis))
