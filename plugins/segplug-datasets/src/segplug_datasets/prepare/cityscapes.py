"""Cityscapes: ``labelTrainIds`` files, 0 to 18 and 255, of the ids or polygons in gtFine (Cordts et al., 2016).

If the download has ``labelIds`` files, their ids are replaced; else polygons are drawn in order. Both match the output
of Cityscapes' own script, the second except for single pixels at edges.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from segkernel.errors import DataError
from segkernel.image import opencv
from segkernel.labels import IGNORE
from segplug_datasets.cityscapes import LABELS
from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.output import Job, Output
from segplug_datasets.prepare.sources import SourceFile
from segplug_datasets.prepare.steps import copy, map_values, read
from segplug_datasets.tables import names

NAMES = names("""
unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, road, sidewalk, parking, rail track,
building, wall, fence, guard rail, bridge, tunnel, pole, polegroup, traffic light, traffic sign, vegetation, terrain,
sky, person, rider, car, truck, bus, caravan, trailer, train, motorcycle, bicycle
""")
"""Class names of Cityscapes' ids 0 to 33. A licence plate has none: it gets the class beneath it."""

TRAIN_IDS = {
    place: LABELS.classes.index(name) if name in LABELS.classes else IGNORE for place, name in enumerate(NAMES)
}
_LICENSE_PLATE = "license plate"
_SUFFIXES = ("_leftImg8bit.png", "_gtFine_labelTrainIds.png")


def draw(description: dict[str, Any], name: str) -> np.ndarray:
    """Return the train ids (H, W) uint8 of the polygons of an image.

    Raises:
        DataError: When it describes no image, or a label is unknown.
    """
    try:
        labels = np.full((description["imgHeight"], description["imgWidth"]), IGNORE, np.uint8)
        for thing in description["objects"]:
            train_id = None if thing.get("deleted") else _train_id(thing["label"], name)
            if train_id is not None:
                corners = np.array(thing["polygon"], np.float64).reshape(-1, 2).round().astype(np.int32)
                opencv().fillPoly(labels, [corners], train_id)
    except (KeyError, TypeError) as error:
        raise DataError(f"not Cityscapes' polygons: {error}", name) from error
    return labels


def _train_id(label: str, name: str) -> int | None:
    single = label if label in NAMES else label.removesuffix("group")  # several cars that cannot be told apart
    if single == _LICENSE_PLATE:
        return None
    if single not in NAMES:
        raise DataError(f"Cityscapes has no label {label!r}", name)
    return TRAIN_IDS[NAMES.index(single)]


def _labels(file: SourceFile, target: str, output: Output) -> None:
    if file.name.endswith(".json"):
        output.mask(target, draw(json.loads(file.read()), file.name))
    else:
        output.mask(target, map_values(read(file, raw=True), TRAIN_IDS))


def _lists(files: Sequence[SourceFile]) -> Iterator[Job]:
    """Yield ``train.txt`` and so on: the names of the images with labels in the download."""
    for split in ("train", "val", "test"):
        parts = [file.name.split("/") for file in files if "_gtFine_" in file.name]
        found = sorted({f"{p[-2]}/{p[-1].partition('_gtFine_')[0]}" for p in parts if p[-3] == split})
        if found:
            content = "".join(f"{name}\n" for name in found)
            yield Job(f"{split}.txt", content, partial(Output.text, name=f"{split}.txt", content=content))


CONVERTER = Converter(
    name="cityscapes",
    title="Cityscapes: street scenes, 5000 images of 2048 x 1024",
    homepage="www.cityscapes-dataset.com",
    terms="for non-commercial research, after registration",
    download="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip",
    reads="CityscapesDataset",
    rules=(
        Rule(
            "images",
            r"leftImg8bit/(train|val|test|train_extra)/([^/]+/[^/]+_leftImg8bit\.png)",
            lambda m: f"leftImg8bit/{m[1]}/{m[2]}",
            copy,
        ),
        # Of two files with the same target the first by name is used: labelIds.
        Rule(
            "labels",
            r"(gtFine|gtCoarse)/(train|val|test|train_extra)/([^/]+/[^/]+)_(?:labelIds\.png|polygons\.json)",
            lambda m: f"{m[1]}/{m[2]}/{m[3]}_labelTrainIds.png",
            _labels,
        ),
    ),
    parts=(
        Part("train", "leftImg8bit/train", (2975,), ("gtFine/train",), _SUFFIXES),
        Part("val", "leftImg8bit/val", (500,), ("gtFine/val",), _SUFFIXES),
        Part("test", "leftImg8bit/test", (1525,), ("gtFine/test",), _SUFFIXES),
    ),
    more=_lists,
    in_place=True,
)
