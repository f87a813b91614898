"""Label Studio's JSON export of brushes, polygons, rectangles and ellipses (labelstud.io)."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from typing_extensions import Unpack

from segkernel.errors import DataError
from segkernel.sample import Sample, Size
from segplug_datasets.annotations.raster import Region, as_points, ellipse, rectangle
from segplug_datasets.annotations.records import decode_texts, scan_array
from segplug_datasets.annotations.rle import from_label_studio
from segplug_datasets.annotations.shapes import (
    EXAMPLE,
    AnnotationIndex,
    Shape,
    ShapeDataset,
    ShapeOptions,
    example_images,
    is_image,
    require_declared,
)
from segplug_datasets.left_out import LeftOut
from segplug_datasets.listing import IMAGE_SUFFIXES, clean, find_files, resolve

_KINDS = ("brush", "polygon", "rectangle", "ellipse")
_OTHER_KINDS = ("keypoint", "vector", "cuboid", "bitmask", "videorectangle")
_LEFT_OUT = {
    "objects-without-label": ("objects have no label", "They are skipped: label them, or delete them."),
    "objects-of-other-kinds": (
        f"objects are of other types than {', '.join(_KINDS)}",
        "They are skipped: their pixels are background.",
    ),
    "further-labels": ("objects have several labels", "The first one is used."),
    "turned-in-the-tool": (
        "objects were drawn on an image that was rotated in Label Studio",
        "They are read relative to the unrotated image: check some with seg-kernel data browse.",
    ),
    "tasks-without-annotation": (
        "tasks have only predictions or cancelled annotations",
        "They count as not annotated: submit them, or set 'unannotated'.",
    ),
}
_PREFIX = re.compile(r"^[0-9a-f]{8}-")


class LabelStudioDataset(ShapeDataset):
    """Images with a JSON export of Label Studio: the classes are the background and all labels, in alphabetical order.

    If a task has several annotations, the last that was not cancelled is used. Later objects cover earlier ones. Only
    file offsets are kept in memory; the objects of an image are read with it.

    Args:
        ann_file: The JSON file, under ``data_root``.
        images: Folder of the images, under ``data_root``, searched recursively. A task's image is found by the end of
            its URL, also without the eight-digit prefix of uploads.
        data_root: Folder to which the other paths are relative.
        options: Classes, overlap and so on: the arguments of `ShapeDataset`.

    Raises:
        DataError: When files are missing or damaged.
        UsageError: When ``classes`` or ``others`` has an unknown name.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        example_images(folder / "images", EXAMPLE)
        value = {"points": [[10, 10], [90, 10], [90, 80]], "polygonlabels": ["cat"]}
        result = {"type": "polygonlabels", "value": value, "original_width": 16, "original_height": 12}
        tasks = [
            {"data": {"image": "/data/upload/1/0123abcd-0.png"}, "annotations": [{"result": [result]}]},
            {"data": {"image": "1.png"}, "annotations": []},
        ]
        (folder / "a.json").write_text(json.dumps(tasks))
        return [{"data_root": str(folder), "ann_file": "a.json", "images": "images"}]

    def __init__(
        self,
        ann_file: str | Path,
        images: str | Path = "",
        data_root: str | Path | None = None,
        **options: Unpack[ShapeOptions],
    ) -> None:
        root = resolve(data_root)
        self.data_root = str(root)
        self._where = resolve(root, ann_file), resolve(root, images)
        super().__init__(**options)

    def _source(self) -> Path:
        return self._where[0]

    def _open(self) -> AnnotationIndex:
        path, images = self._where
        self._records, kept = scan_array(path, _summary)
        tasks = decode_texts([(address, labels) for address, labels, _ in kept])
        left_out = sum((Counter(lost) for _, _, lost in kept), Counter[str]())
        if not tasks:
            raise DataError("the export has no tasks", path)
        found = find_files(images, IMAGE_SUFFIXES)
        start = len(os.path.join(images, ""))
        files = _by_end([place[start:] for place in found.values()])
        names = [_found(address, files, path, images) for address, _ in tasks]
        labels = sorted({label for _, used in tasks for label in used})
        return AnnotationIndex(
            images,
            names,
            np.arange(len(names)),
            [bool(used) for _, used in tasks],
            labels,
            str(path),
            left_out=[LeftOut(kind, count, *_LEFT_OUT[kind]) for kind, count in left_out.items()],
        )

    def _shapes(self, sample: Sample, key: Any) -> Iterable[Shape]:
        where = f"{self._records.path}, task of {sample.meta['name']}"
        (task,) = self._records.load([key])
        found, _ = _objects(task)
        return (self._shape(result, kind, labels[0], sample, where) for result, kind, labels in found)

    def _shape(self, result: dict[str, Any], kind: str, label: str, sample: Sample, where: str) -> Shape:
        require_declared(sample, (result.get("original_height"), result.get("original_width")), where)
        try:
            region = self._region(result["value"], kind, sample.size, where)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"a {kind} lacks a number: {error}", where) from None
        except DataError as error:
            raise error if where in str(error) else DataError(str(error), where) from None
        if label not in self._ids:
            raise DataError(f"label {label!r} was not in the file when the data set was opened", where)
        return Shape(label, region)

    def _region(self, value: dict[str, Any], kind: str, size: Size, where: str) -> Region:
        height, width = size
        if kind == "brush":
            return from_label_studio(value["rle"], size)
        if kind == "polygon":  # coordinates are percentages of the image size, here and below
            return self._polygon(as_points(value["points"], where) * (width / 100, height / 100), size, where)
        x, y, degrees = (
            float(value["x"]) * width / 100,
            float(value["y"]) * height / 100,
            float(value.get("rotation") or 0),
        )
        if kind == "ellipse":
            return ellipse(x, y, value["radiusX"] * width / 100, value["radiusY"] * height / 100, size, degrees)
        return _turned_rectangle(x, y, value["width"] * width / 100, value["height"] * height / 100, size, degrees)


def _turned_rectangle(x: float, y: float, width: float, height: float, size: Size, degrees: float) -> Region:
    """Return a rectangle rotated clockwise about its first corner, as in Label Studio."""
    angle = np.deg2rad(degrees)
    half_x, half_y = width / 2, height / 2
    center_x = x + half_x * np.cos(angle) - half_y * np.sin(angle)
    center_y = y + half_x * np.sin(angle) + half_y * np.cos(angle)
    box = (center_x - half_x, center_y - half_y, center_x + half_x, center_y + half_y)
    return rectangle(*box, size, degrees)


def _summary(task: Any) -> tuple[str, list[str], list[str]]:
    """Return the URL of a task's image, the labels of its objects, and why others are left out."""
    found, lost = _objects(task)
    return _address(task["data"]), [labels[0] for _, _, labels in found], lost


def _address(data: Any) -> str:
    """Return the URL of an image in a task's data."""
    texts = [text for text in data.values() if isinstance(text, str)]
    preferred = data.get("image") or data.get("img")
    candidates = [preferred] if isinstance(preferred, str) else [text for text in texts if is_image(_plain(text))]
    if not candidates:
        raise ValueError("its 'data' has no URL of an image")
    return candidates[0]


def _plain(address: str) -> str:
    """Return a URL as a path: that of a local file follows ``?d=``; other queries and escapes are removed."""
    before, _, query = address.partition("?")
    return unquote(query[2:] if query.startswith("d=") else before)


def _objects(task: dict[str, Any]) -> tuple[list[tuple[dict[str, Any], str, list[str]]], list[str]]:
    """Return the objects of a task's valid annotation, with kind and labels, and why others are left out.

    The tag ``<Labels>`` next to ``<Polygon>``, ``<Rectangle>`` and so on makes two results of one id: one with the
    outline, and one of type ``labels`` with the label.
    """
    annotations = task.get("annotations") or task.get("completions") or ()
    counting = [one for one in annotations if not one.get("was_cancelled")]
    results = counting[-1].get("result") or () if counting else ()
    named = {one.get("id"): _labels(one) for one in results if one.get("type") == "labels" and one.get("id")}
    found, lost = [], []
    if not counting and (annotations or task.get("predictions")):
        lost.append("tasks-without-annotation")
    for one in results:
        kind = str(one.get("type", "")).removesuffix("labels")
        labels = _labels(one) or named.get(one.get("id"), [])
        if kind in _KINDS and labels:
            found.append((one, kind, labels))
            lost += ["further-labels"] * (len(labels) > 1)
            lost += ["turned-in-the-tool"] * bool(one.get("image_rotation"))
        elif kind in _KINDS:
            lost.append("objects-without-label")
        elif kind in _OTHER_KINDS:
            lost.append("objects-of-other-kinds")
    return found, lost


def _labels(result: dict[str, Any]) -> list[str]:
    value = result.get("value") or {}
    return value.get(result.get("type", "")) or value.get("labels") or []


def _by_end(names: list[str]) -> dict[str, list[str]]:
    """Group paths by file name."""
    files: dict[str, list[str]] = {}
    for name in names:
        files.setdefault(os.path.basename(clean(name)), []).append(clean(name))
    return files


def _found(address: str, files: dict[str, list[str]], path: Path, images: Path) -> str:
    """Return the file of a task's URL; among several with the same name, the one whose folders match."""
    plain = clean(_plain(address))
    base = plain.rpartition("/")[2]
    for name in (base, _PREFIX.sub("", base)):
        fitting = [file for file in files.get(name, ()) if f"/{plain}".endswith(f"/{file}")] or files.get(name, [])
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise DataError(f"the image of a task may be {' or '.join(fitting[:3])}: {address}", path)
    raise DataError(f"the image of a task is not in {images}: {address}", path)
