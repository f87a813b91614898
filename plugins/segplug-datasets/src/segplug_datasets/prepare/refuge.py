"""REFUGE: the eye's disc and cup (Orlando et al., 2020). In the download 0 is the cup, 128 the disc, 255 the rest."""

from __future__ import annotations

import re

import numpy as np

from segplug_datasets.prepare.core import Converter, Part, Rule, left_to_more
from segplug_datasets.prepare.output import Output
from segplug_datasets.prepare.sources import SourceFile
from segplug_datasets.prepare.steps import map_values, picture, read

_SPLITS = {"g": "training", "n": "training", "v": "validation", "t": "test"}
"""By the first letter of a name: glaucoma and normal eyes are for training."""


def _labels(file: SourceFile, target: str, output: Output) -> None:
    output.mask(target, map_values(np.ascontiguousarray(read(file)[..., 0]), {255: 0, 0: 1, 128: 2}))


def _place(match: re.Match[str]) -> str:
    return f"{_SPLITS[match[2].lower()]}/{match[1]}.png"


CONVERTER = Converter(
    name="refuge",
    title="REFUGE: optic disc and cup, 1200 fundus images",
    homepage="refuge.grand-challenge.org",
    terms="after registration; see the homepage",
    download="REFUGE2.zip, or the six archives inside it",
    reads="REFUGEDataset",
    rules=(
        # The archives also have images that explain the labels, in folders called Illustration.
        Rule("images of labels", r".*Illustration.*", left_to_more, needed=False),
        Rule("images", r"(([gnvt])\d{4})\.jpg", lambda m: f"images/{_place(m)}", picture),
        Rule("labels", r"(([gnvt])\d{4})\.bmp", lambda m: f"annotations/{_place(m)}", _labels),
    ),
    parts=(
        Part("train", "images/training", (400,), ("annotations/training",)),
        Part("val", "images/validation", (400,), ("annotations/validation",)),
        Part("test", "images/test", (400,), ("annotations/test",)),
    ),
)
