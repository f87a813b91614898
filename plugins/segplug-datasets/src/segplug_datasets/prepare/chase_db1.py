"""CHASE_DB1: vessels in fundus images of children's eyes (Fraz et al., 2012)."""

from __future__ import annotations

from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.steps import binary, picture


def _split(number: str) -> str:
    return "training" if int(number) <= 10 else "validation"


CONVERTER = Converter(
    name="chase_db1",
    title="CHASE_DB1: retinal vessels, 28 images",
    homepage="blogs.kingston.ac.uk/retinal/chasedb1",
    terms="see the homepage",
    download="CHASEDB1.zip",
    reads="ChaseDB1Dataset",
    rules=(
        Rule("images", r"(Image_(\d\d)[LR])\.jpg", lambda m: f"images/{_split(m[2])}/{m[1]}.png", picture),
        Rule(
            "labels",
            r"(Image_(\d\d)[LR]_(?:1st|2nd)HO)\.png",
            lambda m: f"annotations/{_split(m[2])}/{m[1]}.png",
            binary,
        ),
    ),
    parts=(
        Part("train", "images/training", (20,), ("annotations/training",), (".png", "_1stHO.png")),
        Part("val", "images/validation", (8,), ("annotations/validation",), (".png", "_1stHO.png")),
    ),
)
