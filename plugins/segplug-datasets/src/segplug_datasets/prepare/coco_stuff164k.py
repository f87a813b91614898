"""COCO-Stuff of the 164k images of COCO 2017 (Caesar, Uijlings and Ferrari, 2018).

Label files contain COCO's ids minus 1, 0 to 181, of which 11 are unused; they are written as 0 to 170, and 255 stays.
"""

from __future__ import annotations

from segkernel.labels import IGNORE
from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.steps import copy, ids

NEVER_USED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Ids of COCO that no pixel has."""

USED = tuple(number for number in range(1, 183) if number not in NEVER_USED)
_TABLE = {**{number - 1: place for place, number in enumerate(USED)}, IGNORE: IGNORE}

CONVERTER = Converter(
    name="coco_stuff164k",
    title="COCO-Stuff 164k: 118287 images to train, 5000 to validate",
    homepage="github.com/nightrome/cocostuff",
    terms="annotations CC BY 4.0; the images are Flickr's, under their own terms",
    download="train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip",
    reads="COCOStuffDataset",
    rules=(
        Rule("images", r"(train2017|val2017)/(\d+\.jpg)", lambda m: f"images/{m[1].lower()}/{m[2]}", copy),
        Rule(
            "labels",
            r"(train2017|val2017)/(\d+)\.png",
            lambda m: f"annotations/{m[1].lower()}/{m[2]}_labelTrainIds.png",
            ids(_TABLE),
        ),
    ),
    parts=(
        Part(
            "train", "images/train2017", (118287,), ("annotations/train2017",), suffixes=(".jpg", "_labelTrainIds.png")
        ),
        Part("val", "images/val2017", (5000,), ("annotations/val2017",), suffixes=(".jpg", "_labelTrainIds.png")),
    ),
    in_place=True,
)
