"""labelme's JSON files, one next to each image (github.com/wkentaro/labelme)."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import DataError
from segkernel.image import opencv
from segkernel.sample import Sample, Size
from segplug_datasets.annotations.raster import Region, as_points, ellipse, line, rectangle
from segplug_datasets.annotations.shapes import (
    EXAMPLE,
    AnnotationIndex,
    Shape,
    ShapeDataset,
    ShapeOptions,
    example_images,
    require_declared,
)
from segplug_datasets.listing import IMAGE_SUFFIXES, find_files, resolve

_IGNORED = "__ignore__"


class LabelmeDataset(ShapeDataset):
    """Images with labelme's JSON files: the classes are the background and all labels, in alphabetical order.

    Polygons, rectangles, circles, lines, points and masks are read. Later shapes cover earlier ones. Pixels of shapes
    labelled ``__ignore__`` are ignored. All files are read once to collect the labels.

    Args:
        images: Folder of the images, searched recursively; images without a JSON file have no annotation.
        annotations: Folder of the JSON files with the same layout; that of the images when None.
        data_root: Folder to which the other paths are relative.
        line_width: Width of lines in pixels; points are discs of this diameter.
        options: Classes, overlap and so on: the arguments of `ShapeDataset`.

    Raises:
        DataError: When files are missing or damaged.
        UsageError: When ``classes`` or ``others`` has an unknown name.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        example_images(folder, EXAMPLE)
        shapes = [
            {"label": "cat", "shape_type": "polygon", "points": [[1, 1], [9, 1], [9, 8]]},
            {"label": "dog", "shape_type": "circle", "points": [[5, 5], [7, 5]]},
        ]
        (folder / "0.json").write_text(json.dumps({"shapes": shapes, "imageHeight": 12, "imageWidth": 16}))
        return [{"images": str(folder)}, {"images": str(folder), "unannotated": "ignored"}]

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path | None = None,
        data_root: str | Path | None = None,
        line_width: PositiveInt = 10,
        **options: Unpack[ShapeOptions],
    ) -> None:
        root = resolve(data_root)
        self.data_root, self._line_width = str(root), line_width
        self._folders = resolve(root, images), resolve(root, images if annotations is None else annotations)
        super().__init__(**options)

    def _source(self) -> Path:
        return self._folders[1]

    def _open(self) -> AnnotationIndex:
        images, annotations = self._folders
        found, files = find_files(images, IMAGE_SUFFIXES), find_files(annotations, (".json",))
        lost = sorted(set(files) - set(found))
        if lost:
            raise DataError(f"{len(lost)} of {len(files)} JSON files have no image in {images}: {', '.join(lost[:5])}")
        start, names = len(os.path.join(images, "")), sorted(found)
        labels = {_label(shape, path) for path in files.values() for shape in _load(path)["shapes"]}
        keys = [files.get(name, "") for name in names]
        annotated = [bool(key) for key in keys]
        return AnnotationIndex(
            images, [found[n][start:] for n in names], keys, annotated, sorted(labels - {_IGNORED}), str(annotations)
        )

    def _shapes(self, sample: Sample, key: str) -> Iterable[Shape]:
        if not key:
            return []
        document = _load(key)
        require_declared(sample, (document.get("imageHeight"), document.get("imageWidth")), key)
        return (self._shape(shape, sample.size, key) for shape in document["shapes"])

    def _shape(self, shape: dict[str, Any], size: Size, path: str) -> Shape:
        label, kind = _label(shape, path), shape.get("shape_type") or "polygon"
        if label != _IGNORED and label not in self._ids:
            raise DataError(f"label {label!r} was not in the file when the data set was opened", path)
        points = as_points(shape.get("points") or (), f"{path}, a {kind} of {label!r}")
        return Shape(None if label == _IGNORED else label, self._region(kind, shape, points, size, path))

    def _region(self, kind: str, shape: dict[str, Any], points: np.ndarray, size: Size, path: str) -> Region:
        needed = {"rectangle": 2, "circle": 2, "mask": 2, "point": 1}.get(kind, 0)
        if len(points) < needed:
            raise DataError(f"a {kind} needs {needed} points, this one has {len(points)}", path)
        if kind == "polygon" or (kind == "rectangle" and len(points) == 4):
            return self._polygon(points, size, path)
        if kind == "rectangle":
            (left, top), (right, bottom) = points[:2].min(0), points[:2].max(0)
            return rectangle(left, top, right, bottom, size)
        if kind == "circle":
            radius = float(np.hypot(*(points[1] - points[0])))
            return ellipse(points[0, 0], points[0, 1], radius, radius, size)
        if kind == "mask":
            return _mask(shape, points, size, path)
        if kind in ("line", "linestrip"):
            return line(points, self._line_width, size)
        if kind == "point":
            return ellipse(points[0, 0], points[0, 1], self._line_width / 2, self._line_width / 2, size)
        raise DataError(
            f"shapes of type {kind!r} are not supported: only polygon, rectangle, circle, line, point, mask", path
        )


def _load(path: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"damaged JSON: {error}", path) from None
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise DataError("not a labelme file: it has no list of 'shapes'", path)
    return document


def _label(shape: Any, path: str) -> str:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise DataError("a shape has no 'label'", path)
    return shape["label"]


def _mask(shape: dict[str, Any], points: np.ndarray, size: Size, path: str) -> Region:
    """Decode a mask: a base64-encoded PNG, from the first point to the second."""
    try:
        data = np.frombuffer(base64.b64decode(shape.get("mask") or "", validate=True), np.uint8)
    except (binascii.Error, TypeError, ValueError):
        data = np.zeros(0, np.uint8)
    cv2 = opencv()
    mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    if mask is None:
        raise DataError("the mask of a shape is not a base64-encoded PNG", path)
    left, top = (int(value) for value in points[0])
    height, width = mask.shape
    if min(left, top) < 0 or top + height > size[0] or left + width > size[1]:
        raise DataError(f"a mask at ({left}, {top}) of {width} x {height} is not inside the image", path)
    return Region(top, left, mask > 0)
