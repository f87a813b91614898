"""Pascal Context: labels of every pixel of Pascal VOC 2010 (Mottaghi et al., 2014), of ``trainval_merged.json``.

The file is that of the API "PASCAL in Detail": images with a phase, and segments in COCO's run-length code with one of
459 categories, of which 59 are used. They are painted in the file's order. DEST is the folder ``VOCdevkit``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from segkernel.errors import DataError
from segplug_datasets.annotations.rle import from_coco
from segplug_datasets.prepare.core import Converter, Part, Rule, left_to_more
from segplug_datasets.prepare.output import Job, Output
from segplug_datasets.prepare.sources import SourceFile
from segplug_datasets.prepare.steps import copy

CATEGORIES = (
    *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158),
    *(159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366),
    *(368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
"""Ids of the file; the place of one is the value that is written: 0 the background, then 59 classes by name."""

_PLACES = {category: place for place, category in enumerate(CATEGORIES)}
_LISTS = "VOC2010/ImageSets/SegmentationContext"
_MASKS = "VOC2010/SegmentationClassContext"


def _write(entry: Mapping[str, Any], segments: Sequence[Mapping[str, Any]], target: str, output: Output) -> None:
    labels = np.zeros((entry["height"], entry["width"]), np.uint8)
    for segment in segments:
        if segment["category_id"] not in _PLACES:
            raise DataError(f"category {segment['category_id']} is not one of the 59", entry["file_name"])
        from_coco(segment["segmentation"], labels.shape).paint(labels, _PLACES[segment["category_id"]])
    output.mask(target, labels)


def _jobs(files: Sequence[SourceFile]) -> Iterator[Job]:
    """Yield the label file of each image of the two phases, and their lists."""
    index = next(file for file in files if file.name.endswith(".json"))
    try:
        content = json.loads(index.read())
        segments = defaultdict(list)
        for segment in content["annos_segmentation"]:
            segments[segment["image_id"]].append(segment)
        images = {(entry["phase"], entry["file_name"].rpartition(".")[0]): entry for entry in content["images"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not the file of PASCAL in Detail: {error!r}", index.name) from error
    for phase in ("train", "val"):
        names = sorted(name for there, name in images if there == phase)
        for name in names:
            entry, target = images[phase, name], f"{_MASKS}/{name}.png"
            yield Job(target, index.stamp, partial(_write, entry, segments[entry["image_id"]], target))
        target, text = f"{_LISTS}/{phase}.txt", "".join(f"{name}\n" for name in names)
        yield Job(target, index.stamp, partial(Output.text, name=target, content=text))


CONVERTER = Converter(
    name="pascal_context",
    title="Pascal Context: 59 classes of every pixel of 10103 images",
    homepage="www.cs.stanford.edu/~roozbeh/pascal-context",
    terms="the images are Flickr's, under their own terms; see the homepage",
    download="VOCtrainval_03-May-2010.tar and trainval_merged.json",
    reads="PascalContextDataset, PascalContextDataset59",
    root="VOC2010",
    arguments="ann_file: ImageSets/SegmentationContext/train.txt",
    rules=(
        Rule("images", r"VOC2010/JPEGImages/([^/]+\.jpg)", lambda m: f"VOC2010/JPEGImages/{m[1]}", copy),
        Rule("labels", r"trainval_merged\.json", left_to_more),
    ),
    parts=tuple(
        Part(name, "VOC2010/JPEGImages", (count,), (_MASKS,), (".jpg", ".png"), f"{_LISTS}/{name}.txt")
        for name, count in (("train", 4998), ("val", 5105))
    ),
    more=_jobs,
    in_place=True,
)
