"""DRIVE: vessels in fundus images (Staal et al., 2004). The labels are GIF files, which OpenCV reads from 4.11 on.

Recent versions of the official test.zip have no labels of the first observer: the validation part is then unlabelled.
"""

from __future__ import annotations

from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.steps import binary, picture

_SPLITS = {"training": "training", "test": "validation"}

CONVERTER = Converter(
    name="drive",
    title="DRIVE: retinal vessels, 40 images",
    homepage="drive.grand-challenge.org",
    terms="after registration; see the homepage",
    download="training.zip and test.zip",
    reads="DRIVEDataset",
    rules=(
        Rule(
            "images",
            r"(training|test)/images/(\d\d)_\1\.tif",
            lambda m: f"images/{_SPLITS[m[1].lower()]}/{m[2]}.png",
            picture,
        ),
        Rule(
            "labels",
            r"(training|test)/(?:1st|2nd)_manual/(\d\d_manual[12])\.gif",
            lambda m: f"annotations/{_SPLITS[m[1].lower()]}/{m[2]}.png",
            binary,
        ),
    ),
    parts=(
        Part("train", "images/training", (20,), ("annotations/training",), (".png", "_manual1.png")),
        Part("val", "images/validation", (20,), ("annotations/validation",), (".png", "_manual1.png")),
    ),
)
