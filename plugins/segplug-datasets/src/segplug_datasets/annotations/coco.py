"""COCO's JSON of objects: polygons, run lengths, crowds (Lin et al., 2014; cocodataset.org/#format-data)."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import Unpack

from segkernel.errors import DataError
from segkernel.sample import Sample, Size
from segplug_datasets.annotations.raster import NOTHING, Region, rectangle, union
from segplug_datasets.annotations.records import decode_texts, scan_object
from segplug_datasets.annotations.rle import from_coco
from segplug_datasets.annotations.shapes import (
    EXAMPLE,
    AnnotationIndex,
    Shape,
    ShapeDataset,
    ShapeOptions,
    example_images,
    groups,
    require_declared,
)
from segplug_datasets.left_out import LeftOut
from segplug_datasets.listing import clean, read_list, require_files, resolve

Boxes = Literal["refused", "filled", "ignored"]
CROWD_LAYER, BOX_LAYER = -1, -2  # below all others


class CocoInstanceDataset(ShapeDataset):
    """Images with the objects of a COCO file: the classes are the background and the file's categories.

    Smaller objects cover larger ones; crowds (``iscrowd``) are below all others. Only file offsets are kept in memory;
    the annotations of an image are read with it.

    With ``instances``, samples have the fields of objects, crowds included, but for those marked ``ignore`` and those
    whose area is 0; and ``keypoints``, if a category has them. COCO's keypoints are pixel indices, so 0.5 is added:
    (0, 0) is the outer corner of the first pixel here. ``category_ids``, also in ``meta``, has the id of each class,
    ``meta["image_id"]`` that of the image; ``skeleton`` lists pairs of keypoints.

    Args:
        ann_file: The JSON file, under ``data_root``.
        images: Folder of the images, under ``data_root``, to which the file names in ``ann_file`` are relative.
        data_root: Folder to which the other paths are relative.
        ids: Text file with the images to use, one per line, by id or by file name (the ``minival`` lists of 2014); all
            when None.
        crowd: Whether pixels of a crowd (``iscrowd``) get its class, or are ignored. ``auto``: ignored, unless the
            file is from a tool that marks all painted objects as crowds (CVAT, Datumaro), or all objects are crowds.
        boxes: Objects with a box but no outline: an error, the filled box, or ignored pixels.
        options: Classes, overlap and so on: the arguments of `ShapeDataset`.

    Raises:
        DataError: When files are missing or damaged.
        UsageError: When ``classes`` or ``others`` has an unknown name.
    """

    default_overlap = "smaller"

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        write_coco_example(folder)
        return [{"data_root": str(folder), "ann_file": "a.json", "images": "images"}]

    def __init__(
        self,
        ann_file: str | Path,
        images: str | Path = "",
        data_root: str | Path | None = None,
        ids: str | Path | None = None,
        crowd: Literal["auto", "ignored", "class"] = "auto",
        boxes: Boxes = "refused",
        **options: Unpack[ShapeOptions],
    ) -> None:
        root = resolve(data_root)
        self.data_root = str(root)
        self._where = resolve(root, ann_file), resolve(root, images), resolve(root, ids) if ids is not None else None
        self._crowd, self._boxes = crowd, boxes
        super().__init__(**options)

    def _source(self) -> Path:
        return self._where[0]

    def _open(self) -> AnnotationIndex:
        path, images, ids = self._where
        found = scan_object(path, {"images": _image, "annotations": _seen, "categories": dict})
        self._records, seen = found["annotations"]
        owners, crowds = [owner for owner, *_ in seen], sum(is_crowd for _, is_crowd, _ in seen)
        self._painted = self._crowd == "auto" and (crowds == len(seen) or any(of_tool for _, _, of_tool in seen))
        if self._crowd == "auto":
            self._crowd = "class" if self._painted else "ignored"
        entries, categories = found["images"][1], decode_texts(found["categories"][1])
        if not entries:
            raise DataError("not a COCO file: 'images' is missing or empty", path)
        self._categories = category_names(categories, path)
        self._read_skeleton(categories)
        chosen = entries if ids is None else choose_images(entries, ids, path)
        place = {entry[0]: number for number, entry in enumerate(entries)}
        order, ends = groups(_owners(owners, place, path), len(entries))
        numbers = np.array([place[entry[0]] for entry in chosen], np.int64)
        self._order = order
        self._image_ids = decode_texts([entry[0] for entry in chosen])
        first, last = ends[numbers], ends[numbers + 1]
        return AnnotationIndex(
            images,
            [entry[1] for entry in decode_texts(chosen)],
            np.stack([first, last, [e[2] for e in chosen], [e[3] for e in chosen], np.arange(len(chosen))], 1),
            (last > first).tolist(),
            list(self._categories.values()),
            str(path),
            left_out=[_crowds(crowds, len(seen), self._crowd)],
        )

    def _shapes(self, sample: Sample, key: Any) -> Iterable[Shape]:
        require_declared(sample, [size or None for size in key[2:4].tolist()], self._records.path)
        sample.meta |= {"image_id": self._image_ids[key[4]], "category_ids": self.category_ids}
        return (self._shape(annotation, sample.size) for annotation in self._load(key))

    def _read_skeleton(self, categories: list[dict[str, Any]]) -> None:
        """Set the names of keypoints, and the pairs of them that are connected."""
        category = next((one for one in categories if one.get("keypoints")), {})
        self.keypoint_names = tuple(str(name) for name in category.get("keypoints") or ())
        self.skeleton = [(int(a) - 1, int(b) - 1) for a, b in category.get("skeleton") or ()]

    @property
    def image_sizes(self) -> np.ndarray | None:
        """(N, 2) height and width of each image in the file; None if it lacks some."""
        sizes: np.ndarray = self._keys[:, 2:4]  # type: ignore[call-overload]
        return sizes if sizes.all() else None

    @property
    def category_ids(self) -> tuple[Any, ...]:
        """The file's category id of each class, the first of those that are merged; None for the background."""
        ids: dict[int, Any] = {}
        for number, name in self._categories.items():
            ids.setdefault(self._ids[name], number)
        return tuple(ids.get(class_id) for class_id in range(len(self.classes)))

    def _load(self, key: Any) -> list[dict[str, Any]]:
        """Return the annotations of a sample."""
        return self._records.load(self._order[key[0] : key[1]])

    def _shape(self, annotation: dict[str, Any], size: Size) -> Shape:
        where = f"{self._records.path}, annotation {annotation.get('id')}"
        category = self._categories.get(annotation.get("category_id", -1))
        if category is None:
            raise DataError(f"category {annotation.get('category_id')} is not defined in the file", where)
        try:
            region = self._region(annotation.get("segmentation"), size, where)
        except DataError as error:
            raise error if where in str(error) else DataError(str(error), where) from None
        if _is_crowd(annotation):
            shape = Shape(category, region or NOTHING, CROWD_LAYER, self._crowd == "ignored", not self._painted)
        elif region is not None:
            shape = Shape(category, region)
        else:
            shape = self._boxed(annotation, category, size, where)
        return shape if self._instances is None else self._described(shape, annotation, where)

    def _described(self, shape: Shape, annotation: dict[str, Any], where: str) -> Shape:
        """Return a shape with what else the file says of it."""
        area, box = annotation.get("area"), None
        if annotation.get("bbox"):
            left, top, width, height = box_of(annotation, where)
            box = [left, top, left + max(width, 0), top + max(height, 0)]
        points = self._points(annotation, where) if self.keypoint_names else None
        listed = not annotation.get("ignore") and area != 0
        area = None if area is None else as_number(area, "area", where)
        return replace(shape, box=box, area=area, keypoints=points, listed=listed)

    def _points(self, annotation: dict[str, Any], where: str) -> np.ndarray | None:
        """Return the keypoints (K, 3) of an object, None if none are labelled."""
        count = len(self.keypoint_names)
        if not any(annotation.get("keypoints") or ()):
            return None
        try:
            points = np.array(annotation["keypoints"], np.float64).reshape(count, 3)
        except (TypeError, ValueError):
            raise DataError(f"its keypoints are not {count} (x, y, v) triples", where) from None
        if not np.isfinite(points).all():
            raise DataError("its keypoints are not finite numbers", where)
        points[points[:, 2] > 0, :2] += 0.5
        return points

    def _region(self, segmentation: Any, size: Size, where: str) -> Region | None:
        """Return the pixels of an annotation; None without a segmentation."""
        if isinstance(segmentation, dict):
            return from_coco(segmentation, size)
        if not segmentation:
            return None
        if not isinstance(segmentation, list):
            raise DataError(f"a segmentation must be polygons or run lengths, not {str(segmentation)[:40]}", where)
        rings = segmentation if isinstance(segmentation[0], list) else [segmentation]
        return union([self._polygon(ring, size, where) for ring in rings])

    def _boxed(self, annotation: dict[str, Any], category: str, size: Size, where: str) -> Shape:
        if self._boxes == "refused":
            hint = "set 'boxes' to fill or ignore boxes"
            raise DataError(f"an object has no outline\n    {hint}", where)
        left, top, width, height = box_of(annotation, where)
        region = rectangle(left, top, left + width, top + height, size)
        ignored = self._boxes == "ignored"
        return Shape(category, region, BOX_LAYER if ignored else 0, ignored)


def category_names(categories: list[dict[str, Any]], path: Path) -> dict[int, str]:
    """Return names by id, in the order of the file.

    Raises:
        DataError: When the file has none, or one lacks its id or name.
    """
    try:
        names = {category["id"]: str(category["name"]) for category in categories}
    except (KeyError, TypeError) as error:
        raise DataError(f"a category lacks {error}", path) from None
    if not names:
        raise DataError("not a COCO file: 'categories' is missing or empty", path)
    return names


def choose_images(entries: list[tuple[Any, ...]], ids: Path, path: Path) -> list[tuple[Any, ...]]:
    """Return the (id, file name, ...) entries that a text file lists by id or by file name.

    Raises:
        DataError: When the list is empty or has an unknown image.
    """
    known: dict[str, tuple[Any, ...]] = {}
    for entry in entries:
        name = clean(str(entry[1]))
        known |= {name: entry, name.rpartition(".")[0]: entry, name.rpartition("/")[2]: entry}
    known |= {str(entry[0]): entry for entry in entries}
    lines = [_listed_image(line, known) for line in read_list(ids, lambda line: _listed_image(line, known) in known)]
    require_files(lines, known, f"listed in {ids} are not in {path}")
    return [known[line] for line in lines]


def _listed_image(line: str, known: Container[str]) -> str:
    """Return the entry in a line of an image list: a file name, with or without folders, or an id."""
    line = clean(line)
    first = next((name for name in (line, line.rpartition("/")[2]) if name in known), line.split()[0])
    name = first.rpartition("/")[2]
    return str(int(name)) if name.isdecimal() and name not in known else name if name in known else first


def box_of(annotation: dict[str, Any], where: str) -> tuple[float, float, float, float]:
    """Return left, top, width and height of an annotation's box.

    Raises:
        DataError: When it has none.
    """
    try:
        left, top, width, height = (float(value) for value in annotation.get("bbox") or ())
    except (TypeError, ValueError):
        raise DataError("an object has neither an outline nor a box of four numbers", where) from None
    if not np.isfinite([left, top, width, height]).all():
        raise DataError("the numbers of a box are not finite", where)
    return left, top, width, height


def as_number(value: Any, name: str, where: str) -> float:
    """Return an entry of an annotation that has to be a finite number.

    Raises:
        DataError: When it is not.
    """
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise DataError(f"{name} must be a number, not {str(value)[:40]}", where)
    return float(value)


def write_coco_example(folder: Path) -> None:
    """Write a tiny COCO data set: ``images``, and ``a.json`` with polygons, both kinds of run lengths and points."""
    example_images(folder / "images", EXAMPLE)
    entries = [
        {"id": n + 7, "file_name": name, "height": h, "width": w} for n, (name, (h, w)) in enumerate(EXAMPLE.items())
    ]
    points = [4, 4, 2, 7, 3, 1, 0, 0, 0]
    shapes: list[dict[str, Any]] = [
        {"image_id": 7, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]], "keypoints": points, "num_keypoints": 2},
        {"image_id": 7, "segmentation": {"size": [12, 16], "counts": [12, 24, 156]}, "iscrowd": 1},
        {"image_id": 8, "segmentation": [[2, 2, 7, 2, 7, 7]], "keypoints": [0] * 9, "num_keypoints": 0, "area": 12.5},
        {"image_id": 8, "segmentation": {"size": [9, 20], "counts": "96U5"}, "iscrowd": 0, "area": 6},
    ]
    for number, shape in enumerate(shapes):
        shape |= {"id": number, "category_id": 3, "bbox": [1, 1, 8, 8]}
    category = {"id": 3, "name": "person", "keypoints": ["head", "left_hand", "right_hand"], "skeleton": [[1, 2]]}
    document = {"images": entries, "annotations": shapes, "categories": [category]}
    (folder / "a.json").write_text(json.dumps(document))


def _image(entry: Any) -> tuple[Any, str, int, int]:
    return entry["id"], entry["file_name"], int(entry.get("height") or 0), int(entry.get("width") or 0)


def _seen(annotation: Any) -> tuple[Any, bool, bool]:
    """Return the image of an annotation, whether it is a crowd, and whether it has fields of certain tools."""
    return annotation["image_id"], _is_crowd(annotation), "attributes" in annotation


def _is_crowd(annotation: dict[str, Any]) -> bool:
    return str(annotation.get("iscrowd") or 0) not in ("0", "False", "false")  # some tools write strings


def _crowds(count: int, objects: int, crowd: str) -> LeftOut:
    if crowd == "ignored":
        why = "Their pixels are ignored, as in COCO; crowd: class labels them with their class."
        return LeftOut("crowds", count, f"of {objects} objects are crowds (iscrowd)", why, is_usual=3 * count < objects)
    why = "They are read as objects of their class; crowd: ignored ignores their pixels."
    return LeftOut("crowds", count, f"of {objects} objects are marked as crowds (iscrowd)", why, is_usual=True)


def _owners(ids: list[Any], place: dict[Any, int], path: Path) -> np.ndarray:
    try:
        return np.array([place[image_id] for image_id in ids], np.int64)
    except KeyError as error:
        raise DataError(f"annotations of image {error}, which 'images' does not list", path) from None
