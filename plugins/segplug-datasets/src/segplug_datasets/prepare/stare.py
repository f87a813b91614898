"""STARE: vessels in fundus images (Hoover et al., 2000).

The first ten of the twenty images that have labels are for training, as MMSegmentation divides them.
"""

from __future__ import annotations

from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.steps import binary, picture

_LAST_TO_TRAIN = 139  # im0139 is the tenth


def _split(number: str) -> str:
    return "training" if int(number) <= _LAST_TO_TRAIN else "validation"


CONVERTER = Converter(
    name="stare",
    title="STARE: retinal vessels, 20 images",
    homepage="cecas.clemson.edu/~ahoover/stare",
    terms="no licence is stated; see the homepage",
    download="stare-images.tar, labels-ah.tar and labels-vk.tar",
    reads="STAREDataset",
    rules=(
        Rule("images", r"(im(\d{4}))\.ppm(?:\.gz)?", lambda m: f"images/{_split(m[2])}/{m[1]}.png", picture),
        Rule(
            "labels",
            r"(im(\d{4})\.(?:ah|vk))\.ppm(?:\.gz)?",
            lambda m: f"annotations/{_split(m[2])}/{m[1]}.png",
            binary,
        ),
    ),
    parts=(
        Part("train", "images/training", (10,), ("annotations/training",), (".png", ".ah.png")),
        Part("val", "images/validation", (10,), ("annotations/validation",), (".png", ".ah.png")),
    ),
)
