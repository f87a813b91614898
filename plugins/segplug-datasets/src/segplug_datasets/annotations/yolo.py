"""YOLO's text files of polygons (docs.ultralytics.com/datasets/segment)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from typing_extensions import Unpack

from segkernel.errors import DataError, suggest
from segkernel.sample import Sample, Size
from segplug_datasets.annotations.coco import BOX_LAYER, Boxes
from segplug_datasets.annotations.raster import rectangle
from segplug_datasets.annotations.shapes import (
    EXAMPLE,
    AnnotationIndex,
    Shape,
    ShapeDataset,
    ShapeOptions,
    example_images,
)
from segplug_datasets.left_out import LeftOut
from segplug_datasets.listing import (
    IMAGE_SUFFIXES,
    NamedFiles,
    clean,
    find_files,
    locate,
    read_list,
    read_text,
    resolve,
    tails,
    walk,
)

_ROUNDING = 0.01  # tolerance, relative to width or height
_LISTS = ("classes", "labels", "train", "val", "test")  # text files that are not labels
_SPARE = "They are skipped: restore the images, or check whether the names differ."


class YoloSegDataset(ShapeDataset):
    """Images with text files of polygons, described by ``data.yaml``: the classes are the background and its names.

    The text file of ``images/train/NAME.jpg`` is ``labels/train/NAME.txt``, or is next to the image; if it is missing,
    the image has no annotation. A line is a class and a polygon's points relative to width and height. The points
    usually come from contours of masks, so all pixels on an outline belong to the object (``polygons: outline``).
    Smaller objects cover larger ones.

    Args:
        ann_file: ``data.yaml``, under ``data_root``.
        split: Key of the file to read: ``train``, ``val``, ``test``; its value is a folder of images, several, or a
            text file of paths.
        data_root: Folder to which the other paths are relative. If the ``path`` in the file does not exist, the
            file's folder is used instead.
        labels: Folder of the text files, under ``data_root``; found as above when None.
        boxes: Lines with a box (four numbers, and keypoints in pose data sets): an error, the filled box, or ignored
            pixels.
        options: Classes, overlap and so on: the arguments of `ShapeDataset`.

    Raises:
        DataError: When files are missing or damaged.
        UsageError: When ``classes`` or ``others`` has an unknown name.
    """

    default_overlap = "smaller"
    default_polygons = "outline"

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        example_images(folder / "images/train", EXAMPLE)
        (folder / "labels/train").mkdir(parents=True)
        (folder / "labels/train/0.txt").write_text("1 0.1 0.1 0.9 0.1 0.9 0.8\n0 0.2 0.5 0.6 0.5 0.6 0.9 0.2 0.9\n")
        (folder / "data.yaml").write_text("path: .\ntrain: images/train\nnames: {0: cat, 1: dog}\n")
        return [{"data_root": str(folder)}, {"data_root": str(folder), "unannotated": "skipped"}]

    def __init__(
        self,
        ann_file: str | Path = "data.yaml",
        split: str = "train",
        data_root: str | Path | None = None,
        labels: str | Path | None = None,
        boxes: Boxes = "refused",
        **options: Unpack[ShapeOptions],
    ) -> None:
        root = resolve(data_root)
        self.data_root, self._boxes = str(root), boxes
        self._where = resolve(root, ann_file), split, resolve(root, labels) if labels is not None else None
        super().__init__(**options)

    def _source(self) -> Path:
        return self._where[0]

    def _open(self) -> AnnotationIndex:
        path, split, labels = self._where
        description = _load(path)
        self._categories, self._has_keypoints = _names(description, path), bool(description.get("kpt_shape"))
        images, names = _images(description, split, path)
        texts = _LabelFiles(labels)
        keys = [texts.of(images / name, name) for name in names]
        annotated = [os.path.isfile(key) and os.path.getsize(key) > 0 for key in keys]
        of_several = labels is not None or ".txt" in str(description[split])  # may have other splits' labels
        spare = 0 if of_several else texts.spare(keys)
        left_out = [LeftOut("labels-without-image", spare, "text files of labels have no image", _SPARE)]
        classes = list(self._categories.values())
        return AnnotationIndex(images, names, keys, annotated, classes, str(path), left_out=left_out)

    def _shapes(self, sample: Sample, key: str) -> Iterable[Shape]:
        if not os.path.isfile(key):
            return []
        lines = read_text(Path(key)).splitlines()
        filled = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
        return (self._shape(words, sample.size, f"{key}, line {number}") for number, words in filled)

    def _shape(self, words: Sequence[str], size: Size, where: str) -> Shape:
        try:
            numbers = np.array(words, np.float64)
        except ValueError:
            raise DataError(f"expected a class and coordinates, not {' '.join(words)[:60]!r}", where) from None
        category = self._categories.get(int(numbers[0])) if np.isfinite(numbers[0]) else None
        if category is None:
            raise DataError(f"class {words[0]} is not one of the {len(self._categories)} names", where)
        height, width = size
        if len(numbers) == 5 or (self._has_keypoints and len(numbers) > 5):
            return self._boxed(category, numbers[1:5] * (width, height, width, height), size, where)
        if len(numbers) < 7 or len(numbers) % 2 == 0:
            raise DataError(f"a polygon needs three points or more, in pairs, not {len(numbers) - 1} numbers", where)
        if numbers[1:].min() < -_ROUNDING or numbers[1:].max() > 1 + _ROUNDING:
            raise DataError("coordinates must be relative to width and height, 0 to 1, not pixels or keypoints", where)
        return Shape(category, self._polygon(numbers[1:].reshape(-1, 2) * (width, height), size, where))

    def _boxed(self, category: str, box: np.ndarray, size: Size, where: str) -> Shape:
        if self._boxes == "refused":
            raise DataError("a box, not a polygon\n    set 'boxes' to fill or ignore boxes", where)
        x, y, width, height = box.tolist()
        region = rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2, size)
        ignored = self._boxes == "ignored"
        return Shape(category, region, BOX_LAYER if ignored else 0, ignored)


def _load(path: Path) -> dict[str, Any]:
    try:
        description = yaml.safe_load(read_text(path, "the description"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"damaged: {error}", path) from None
    if not isinstance(description, dict):
        raise DataError("not a YOLO data.yaml: expected a mapping with 'names'", path)
    return description


def _names(description: dict[str, Any], path: Path) -> dict[int, str]:
    names = description.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError("not a YOLO data.yaml: it has no 'names' of classes", path)
    return {int(number): str(name) for number, name in names.items()}


def _images(description: dict[str, Any], split: str, path: Path) -> tuple[Path, list[str]]:
    """Return a folder, and the images of a split relative to it."""
    if not description.get(split):
        given = [key for key in ("train", "val", "test") if description.get(key)]
        raise DataError(f"it has no split {split!r}: {suggest(split, given)}", path)
    given_root = resolve(path.parent, str(description.get("path") or ""))
    root = given_root if given_root.is_dir() else path.parent
    entries = description[split] if isinstance(description[split], list) else [description[split]]
    names = [name for entry in entries for name in _entry(root, str(entry))]
    return root, list(dict.fromkeys(names))


def _entry(root: Path, entry: str) -> list[str]:
    """Return the images of a folder, or of a text file of paths."""
    place = resolve(root, entry)
    if not place.exists() and entry.startswith("../"):  # exports with paths relative to a subfolder
        place = resolve(root, entry[3:])
    if not place.exists():  # a folder of another machine
        place = next((root / tail for tail in tails(clean(entry), root) if (root / tail).exists()), place)
    if place.suffix != ".txt":
        return sorted(os.path.relpath(found, root) for found in find_files(place, IMAGE_SUFFIXES).values())
    files, siblings = NamedFiles(root), NamedFiles(place.parent)
    lines = read_list(place, lambda line: locate(line, (files, siblings)) is not None)
    found = [locate(line, (siblings, files) if line.startswith("./") else (files, siblings)) for line in lines]
    return [os.path.relpath(path or root / line, root) for path, line in zip(found, lines)]


class _LabelFiles:
    """The text files of images.

    Args:
        labels: Folder of the label files; None searches ``labels`` in place of ``images``, or next to the images.
    """

    def __init__(self, labels: Path | None) -> None:
        self._labels = labels
        self._folders: dict[Path, NamedFiles] = {}

    def of(self, image: Path, name: str) -> str:
        """Return the text file of an image, which need not exist."""
        if self._labels is not None:
            places = [self._labels / image.name, self._labels / name]
        else:
            before, mark, after = str(image).rpartition(f"{os.sep}images{os.sep}")
            places = [Path(before, "labels", after), image] if mark else [image]
        found = (self._found(place.with_suffix(".txt")) for place in places)
        return next(filter(None, found), str(places[-1 if self._labels else 0].with_suffix(".txt")))

    def spare(self, used: Sequence[str]) -> int:
        """Return the number of text files without an image, in the folders of those used."""
        folders = {Path(path).parent for path in used if os.path.isfile(path)}
        there = {path for folder in folders for path in walk(folder) if Path(path).parent == folder}
        texts = {path for path in there if path.endswith(".txt") and Path(path).stem not in _LISTS}
        return len(texts - set(used))

    def _found(self, path: Path) -> str | None:
        if path.parent not in self._folders:
            self._folders[path.parent] = NamedFiles(path.parent)
        return self._folders[path.parent].find(path.name)
