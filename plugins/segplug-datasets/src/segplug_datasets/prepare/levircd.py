"""LEVIR-CD and LEVIR-CD+: building change (Chen and Shi, 2020), cut into tiles of 256 x 256."""

from __future__ import annotations

from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.steps import tiles

CONVERTER = Converter(
    name="levircd",
    title="LEVIR-CD: change of buildings, pairs of 1024 x 1024, cut into 256 x 256",
    homepage="justchenhao.github.io/LEVIR",
    terms="for non-commercial research",
    download="LEVIR-CD+.zip, or train.zip, val.zip and test.zip of LEVIR-CD",
    reads="LEVIRCDDataset",
    rules=(
        Rule(
            "images",
            r"(train|val|test)/([AB])/([^/]+)\.png",
            lambda m: f"{m[1].lower()}/{m[2].upper()}/{m[3]}",
            tiles(256, 256),
        ),
        Rule(
            "labels",
            r"(train|val|test)/label/([^/]+)\.png",
            lambda m: f"{m[1].lower()}/label/{m[2]}",
            tiles(256, 256, values={0: 0, 1: 1, 255: 1}),
        ),
    ),
    # The second number is LEVIR-CD's, which has a validation part; LEVIR-CD+ has none.
    parts=(
        Part("train", "train/A", (10192, 7120), ("train/label",)),
        Part("val", "val/A", (0, 1024), ("val/label",)),
        Part("test", "test/A", (5568, 2048), ("test/label",)),
    ),
)
