"""iSAID: ships, vehicles and sports fields (Waqas Zamir et al., 2019), cut into tiles of 896 x 896 that overlap by 384.

Images are those of DOTA 1.0, labels those of iSAID.
"""

from __future__ import annotations

from segplug_datasets.aerial import iSAIDDataset
from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.steps import copy, tiles

_SIZE, _STEP = 896, 896 - 384
_TILE = "{target}_{top}_{bottom}_{left}_{right}"

CONVERTER = Converter(
    name="isaid",
    title="iSAID: 2806 aerial images, cut into 896 x 896",
    homepage="captain-whu.github.io/iSAID",
    terms="for non-commercial research",
    download="train/images/part*.zip, train/Semantic_masks/images.zip, the same for val, and test/images/part*.zip",
    reads="iSAIDDataset",
    rules=(
        Rule(
            "images",
            r"(train|val)/(?:.*/)?(P\d+)\.png",
            lambda m: f"img_dir/{m[1].lower()}/{m[2]}",
            tiles(_SIZE, _STEP, f"{_TILE}.png"),
        ),
        Rule(
            "labels",
            r"(train|val)/(?:.*/)?(P\d+)_instance_color_RGB\.png",
            lambda m: f"ann_dir/{m[1].lower()}/{m[2]}",
            tiles(_SIZE, _STEP, f"{_TILE}_instance_color_RGB.png", palette=iSAIDDataset.spec.palette),
        ),
        Rule("test images", r"test/(?:.*/)?(P\d+\.png)", lambda m: f"img_dir/test/{m[1]}", copy, needed=False),
    ),
    parts=(
        Part("train", "img_dir/train", (33978,), ("ann_dir/train",), (".png", "_instance_color_RGB.png")),
        Part("val", "img_dir/val", (11644,), ("ann_dir/val",), (".png", "_instance_color_RGB.png")),
        Part("test", "img_dir/test", (937,)),
    ),
)
