"""COCO's panoptic labels: PNG files of segments, and JSON with the category of each (Kirillov et al., 2019)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.labels import IGNORE, Color
from segkernel.sample import LabelMap, Sample
from segplug_datasets import image
from segplug_datasets.annotations.coco import category_names, choose_images
from segplug_datasets.annotations.numbered import numbered_regions
from segplug_datasets.annotations.objects import Instances, Shape, object_fields
from segplug_datasets.annotations.records import as_data_error, decode_texts, scan_object
from segplug_datasets.annotations.shapes import EXAMPLE, IGNORED, example_images
from segplug_datasets.files import ListedFiles
from segplug_datasets.label_reader import read_annotation
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.listing import find_named, resolve, take
from segplug_datasets.mapping import Classes, regroup, regrouped_palette


class CocoPanopticDataset(ListedFiles):
    """Things and stuff of COCO panoptic files as classes; pixels without a segment are ignored.

    Args:
        ann_file: The JSON file, ``annotations/panoptic_val2017.json``, under ``data_root``.
        images: Folder of the images, under ``data_root``.
        segments: Folder of the PNG files; the JSON file's path without its suffix when None.
        data_root: Folder to which the other paths are relative.
        ids: Text file with the images to use, one per line, by id or by file name; all when None.
        kinds: Only things or only stuff (the rest is ignored), or both.
        classes: Some of the categories in this order, or new names, each with the categories it merges; all when None.
        palette: One RGB colour per class; a fixed table when None.
        others: The class of the categories that ``classes`` leaves out; ignored when None.
        crowd: Whether pixels of a crowd are labelled with its class, or ignored.
        indices: The first N samples for N, the last N for -N, those listed for a list; all when None.
        instances: Adds the fields of objects, the segments of things, see `segplug_datasets.annotations.objects`: with
            ``polygons``, with ``masks`` as bitmaps, or with ``boxes`` only; None adds none.

    Raises:
        DataError: When files are missing or damaged.
        UsageError: When ``classes`` or ``others`` has an unknown name.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        example_images(folder / "images", EXAMPLE)
        entries = [{"id": n, "file_name": name} for n, name in enumerate(EXAMPLE)]
        categories = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 92, "name": "sky", "isthing": 0}]
        segments = [{"id": 65794, "category_id": 92, "iscrowd": 0}, {"id": 5, "category_id": 1, "iscrowd": 1}]
        shapes = [{"image_id": n, "file_name": name, "segments_info": segments} for n, name in enumerate(EXAMPLE)]
        document = {"images": entries, "annotations": shapes, "categories": categories}
        (folder / "a.json").write_text(json.dumps(document))
        for name, size in EXAMPLE.items():
            raw = np.zeros((*size, 3), np.uint8)
            raw[2:], raw[4:] = (2, 1, 1), (5, 0, 0)
            image.write(folder / "a" / name, raw)
        arguments = {"data_root": str(folder), "ann_file": "a.json", "images": "images"}
        return [arguments, arguments | {"crowd": IGNORED}]

    def __init__(
        self,
        ann_file: str | Path,
        images: str | Path = "",
        segments: str | Path | None = None,
        data_root: str | Path | None = None,
        ids: str | Path | None = None,
        kinds: Literal["all", "things", "stuff"] = "all",
        classes: Classes | None = None,
        palette: Sequence[Color] | None = None,
        others: str | None = None,
        crowd: Literal["ignored", "class"] = "class",
        indices: int | Sequence[int] | None = None,
        instances: Instances | None = None,
    ) -> None:
        root = resolve(data_root)
        path, folder = resolve(root, ann_file), resolve(root, images)
        chosen = resolve(root, ids) if ids is not None else None
        self.data_root, self._crowd, self._instances = str(root), crowd, instances
        found = scan_object(path, {"images": _image, "annotations": _annotation, "categories": dict})
        self._records, listed = found["annotations"]
        categories = decode_texts(found["categories"][1])
        labels, self._class_ids = _labels(categories, path, kinds, classes, palette, others)
        self._things = {category["id"] for category in categories if category.get("isthing", 1)}
        numbers = take(_numbers(found["images"][1], listed, chosen, path), indices)
        names = decode_texts(dict(found["images"][1]))
        truths = find_named(
            path.with_suffix("") if segments is None else resolve(root, segments),
            [listed[number][1] for number in numbers],
            str(path),
        )
        found_images = find_named(folder, [names[listed[number][0]] for number in numbers], str(path))
        start = len(os.path.join(folder, ""))
        stems = [os.path.splitext(place[start:])[0] for place in found_images]
        super().__init__(list(zip(stems, found_images, truths)), labels)
        self._numbers = dict(zip(truths, numbers))

    def _annotate(self, sample: Sample, mask_path: str) -> None:
        raw = read_annotation(sample, mask_path)
        if raw.ndim != 3 or raw.dtype != np.uint8:
            raise DataError("a panoptic PNG must have segment ids as 8-bit RGB colours", mask_path)
        codes = raw.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        (record,) = self._records.load([self._numbers[mask_path]])
        with as_data_error(self._records.path):
            segments = {int(one["id"]): one for one in record["segments_info"] or ()}
            table = {0: IGNORE} | {number: self._class_id(one) for number, one in segments.items()}
        known = np.array(sorted(table))
        place = np.searchsorted(known, codes).clip(max=len(known) - 1)
        if (known[place] != codes).any():
            strange = np.unique(codes[known[place] != codes])[:5].tolist()
            raise DataError(f"segments {strange} are not in {self._records.path}", mask_path)
        sample["seg"] = LabelMap(np.array([table[code] for code in known.tolist()], np.uint8)[place])
        if self._instances is not None:
            sample.fields |= object_fields(self._objects(codes, segments), sample.size, self._instances)

    def _objects(self, codes: np.ndarray, segments: dict[int, dict[str, Any]]) -> list[tuple[Shape, int]]:
        """Return the segments of things that have a class, and their class ids."""
        objects = []
        for number, region in numbered_regions(codes).items():
            category = segments[number]["category_id"]
            class_id = self._class_ids[category] if category in self._things else IGNORE
            if class_id != IGNORE:
                objects.append((Shape(None, region, crowd=bool(segments[number].get("iscrowd"))), class_id))
        return objects

    def _class_id(self, segment: dict[str, Any]) -> int:
        if segment.get("iscrowd") and self._crowd == IGNORED:
            return IGNORE
        category = segment.get("category_id")
        if category not in self._class_ids:
            raise DataError(
                f"category {category} of segment {segment.get('id')} is not defined in the file", self._records.path
            )
        return self._class_ids[category]


def _labels(
    categories: list[dict[str, Any]],
    path: Path,
    kinds: str,
    classes: Classes | None,
    palette: Sequence[Color] | None,
    others: str | None,
) -> tuple[LabelSpec, dict[int, int]]:
    """Return the labels, and the class id of each category id."""
    names = category_names(categories, path)
    things = {category["id"] for category in categories if category.get("isthing", 1)}
    wanted = [name for number, name in names.items() if kinds == "all" or (number in things) == (kinds == "things")]
    if not wanted:
        raise UsageError(f"{path} has no categories of kind {kinds!r}")
    colors: list[Color] = [tuple(c["color"]) for c in categories if len(c.get("color", ())) == 3]
    old = list(dict.fromkeys(wanted))
    new, ids = regroup(old, classes, others)
    if len(new) > IGNORE:
        raise UsageError(f"{len(new)} classes are too many for a label map: select or merge with 'classes'")
    own = dict(zip(names.values(), colors)) if len(colors) == len(names) else {}
    drawn = regrouped_palette([own[name] for name in old] if own else [], ids, len(new))
    place = dict(zip(old, ids))
    spec = LabelSpec(tuple(new), tuple(palette or drawn))
    return spec, {number: place.get(name, IGNORE) for number, name in names.items()}


def _numbers(images: list[Any], listed: list[Any], ids: Path | None, path: Path) -> list[int]:
    """Return the indices of the annotations to use."""
    if not listed:
        raise DataError("not a COCO panoptic file: 'annotations' with 'segments_info' are missing", path)
    known = {entry[0] for entry in images}
    strange = [image_id for image_id, _ in listed if image_id not in known]
    if strange:
        raise DataError(f"annotations of image {strange[0]}, which 'images' does not list", path)
    if ids is None:
        return list(range(len(listed)))
    wanted = {entry[0] for entry in choose_images(images, ids, path)}
    return [number for number, (image_id, _) in enumerate(listed) if image_id in wanted]


def _image(entry: Any) -> tuple[Any, str]:
    return int(entry["id"]), str(entry["file_name"])


def _annotation(entry: Any) -> tuple[Any, str]:
    _ = entry["segments_info"]
    return int(entry["image_id"]), str(entry["file_name"])
