"""LoveDA: urban and rural aerial images, 1024 x 1024 (Wang et al., 2021)."""

from __future__ import annotations

from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.steps import copy

CONVERTER = Converter(
    name="loveda",
    title="LoveDA: land cover, 5987 images of 1024 x 1024",
    homepage="github.com/Junjue-Wang/LoveDA",
    terms="CC BY-NC-SA 4.0, for research",
    download="Train.zip, Val.zip and Test.zip",
    reads="LoveDADataset",
    rules=(
        Rule(
            "images",
            r"(train|val|test)/(?:rural|urban)/images_png/([^/]+\.png)",
            lambda m: f"img_dir/{m[1].lower()}/{m[2]}",
            copy,
        ),
        Rule(
            "labels",
            r"(train|val)/(?:rural|urban)/masks_png/([^/]+\.png)",
            lambda m: f"ann_dir/{m[1].lower()}/{m[2]}",
            copy,
        ),
    ),
    parts=(
        Part("train", "img_dir/train", (2522,), ("ann_dir/train",)),
        Part("val", "img_dir/val", (1669,), ("ann_dir/val",)),
        Part("test", "img_dir/test", (1796,)),
    ),
)
