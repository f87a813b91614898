"""HRF: vessels in high-resolution fundus images, healthy and diseased (Budai et al., 2013).

The first five of each kind are for training, as MMSegmentation divides them.
"""

from __future__ import annotations

from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.steps import binary, picture


def _split(number: str) -> str:
    return "training" if int(number) <= 5 else "validation"


CONVERTER = Converter(
    name="hrf",
    title="HRF: retinal vessels, 45 images of 3504 x 2336",
    homepage="www5.cs.fau.de/research/data/fundus-images",
    terms="CC BY 4.0",
    download="healthy.zip, glaucoma.zip, diabetic_retinopathy.zip, and the three of them with _manualsegm",
    reads="HRFDataset",
    rules=(
        Rule("images", r"((\d\d)_(?:h|g|dr))\.jpg", lambda m: f"images/{_split(m[2])}/{m[1]}.png", picture),
        Rule("labels", r"((\d\d)_(?:h|g|dr))\.tif", lambda m: f"annotations/{_split(m[2])}/{m[1]}.png", binary),
    ),
    parts=(
        Part("train", "images/training", (15,), ("annotations/training",)),
        Part("val", "images/validation", (30,), ("annotations/validation",)),
    ),
)
