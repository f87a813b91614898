"""ISPRS Vaihingen: a town in near infrared, red and green, 33 images, cut into tiles of 512 x 512.

Split as in MMSegmentation. Its options name a stride of 256, but its tiles are 512 apart, as are ours.
"""

from __future__ import annotations

from segplug_datasets.aerial import ISPRSDataset
from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.steps import tiles

SPLITS = {
    "train": (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37),
    "val": (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38),
}
_SPLIT_OF = {str(area): split for split, areas in SPLITS.items() for area in areas}
COLORS = ((0, 0, 0), *ISPRSDataset.spec.palette)
"""Black borders between classes are 0, ignored; classes start at 1."""


def _place(folder: str, area: str) -> str | None:
    return f"{folder}/{_SPLIT_OF[area]}/area{area}" if area in _SPLIT_OF else None


CONVERTER = Converter(
    name="vaihingen",
    title="ISPRS Vaihingen: 33 aerial images, cut into 512 x 512",
    homepage="www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-vaihingen.aspx",
    terms="on request, for research; see the homepage",
    download="ISPRS_semantic_labeling_Vaihingen.zip and "
    "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip",
    reads="ISPRSDataset",
    rules=(
        Rule("images", r"top/top_mosaic_09cm_area(\d+)\.tif", lambda m: _place("img_dir", m[1]), tiles(512, 512)),
        Rule(
            "labels",
            r"top_mosaic_09cm_area(\d+)_noBoundary\.tif",
            lambda m: _place("ann_dir", m[1]),
            tiles(512, 512, palette=COLORS),
        ),
    ),
    parts=(
        Part("train", "img_dir/train", (344,), ("ann_dir/train",)),
        Part("val", "img_dir/val", (398,), ("ann_dir/val",)),
    ),
)
