"""Metrics of slices of a set: by folder, by size, by the columns of a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from segkernel.errors import DataError
from segplug_datasets.metrics.counts import mean, per_class, pixel_accuracy
from segplug_datasets.metrics.per_image import PerImage

NOT_LISTED = "(not listed)"


@dataclass(frozen=True)
class Slice:
    """A group of images with a common property.

    Args:
        kind: The property: ``folder``, ``size``, or a column.
        value: Its value for this group.
        images: Number of images.
        miou: Mean IoU over their pixels, 0 to 1; nan when nothing counts.
        accuracy: Share of right pixels.
    """

    kind: str
    value: str
    images: int
    miou: float
    accuracy: float


def cut(images: PerImage, facts: Mapping[str, Mapping[str, str]], kinds: Sequence[str]) -> list[Slice]:
    """Return the slices of each kind, the largest first; a kind with one value for all images is left out.

    Args:
        images: The evaluated images.
        facts: Kind to value, for every image by name.
        kinds: Which to use.
    """
    names, areas = images.names, images.areas
    slices = []
    for kind in kinds:
        values = np.array([facts.get(name, {}).get(kind, NOT_LISTED) for name in names])
        groups = [_slice(kind, value, areas[values == value]) for value in np.unique(values).tolist()]
        if len(groups) > 1:
            slices += sorted(groups, key=lambda group: (-group.images, group.value))
    return slices


def _slice(kind: str, value: str, areas: np.ndarray) -> Slice:
    total = areas.sum(0)
    return Slice(kind, value, len(areas), float(mean(per_class(total)["IoU"])), float(pixel_accuracy(total)))


def read_table(path: str | Path, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return column to value for every image that a CSV file lists.

    Args:
        path: A table with a header; its column ``name``, or the first one, holds names of images, with or without
            folders and suffix.
        names: Names of the images that were evaluated.

    Raises:
        DataError: When it cannot be read, has one column only, or names none of the images.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the table of slices cannot be read: {error}", path) from error
    if len(header) < 2:
        raise DataError("a table of slices has a column of names and others, with a header", path)
    key = "name" if "name" in header else header[0]
    listed = {_plain(row[key] or ""): {kind: row[kind] or "" for kind in header if kind != key} for row in rows}
    listed |= {_plain(PurePath(name).name): row for name, row in list(listed.items())}
    found = {name: listed.get(name, listed.get(PurePath(name).name)) for name in names}
    known = {name: row for name, row in found.items() if row is not None}
    if not known:
        raise DataError(f"the column {key!r} names none of the images, such as {names[0]!r}", path)
    return known


def _plain(name: str) -> str:
    """Return a name without the suffix of an image file."""
    known = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
    return name[: -len(PurePath(name).suffix)] if PurePath(name).suffix.lower() in known else name
