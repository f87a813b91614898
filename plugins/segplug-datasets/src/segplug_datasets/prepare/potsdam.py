"""ISPRS Potsdam: a city in colour, 38 images of 6000 x 6000, cut into tiles of 512 x 512.

Split as in MMSegmentation. Its options name a stride of 256, but its tiles are 512 apart, as are ours.
"""

from __future__ import annotations

from segplug_datasets.aerial import PotsdamDataset
from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.steps import tiles

SPLITS = {
    "train": "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_10 6_11 6_12 6_7 6_8 6_9 7_10 7_11 7_12 "
    "7_7 7_8 7_9",
    "val": "5_15 6_15 6_13 3_13 4_14 6_14 5_14 2_13 4_15 2_14 5_13 4_13 3_14 7_13",
}
_SPLIT_OF = {area: split for split, areas in SPLITS.items() for area in areas.split()}
COLORS = ((0, 0, 0), *PotsdamDataset.spec.palette)
"""Black borders between classes are 0, ignored; classes start at 1."""


def _place(folder: str, area: str) -> str | None:
    return f"{folder}/{_SPLIT_OF[area]}/{area}" if area in _SPLIT_OF else None


CONVERTER = Converter(
    name="potsdam",
    title="ISPRS Potsdam: 38 aerial images of 6000 x 6000, cut into 512 x 512",
    homepage="www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-potsdam.aspx",
    terms="on request, for research; see the homepage",
    download="2_Ortho_RGB.zip and 5_Labels_all_noBoundary.zip",
    reads="PotsdamDataset",
    rules=(
        Rule("images", r"top_potsdam_(\d+_\d+)_RGB\.tif", lambda m: _place("img_dir", m[1]), tiles(512, 512)),
        Rule(
            "labels",
            r"top_potsdam_(\d+_\d+)_label_noBoundary\.tif",
            lambda m: _place("ann_dir", m[1]),
            tiles(512, 512, palette=COLORS),
        ),
    ),
    parts=(
        Part("train", "img_dir/train", (3456,), ("ann_dir/train",)),
        Part("val", "img_dir/val", (2016,), ("ann_dir/val",)),
    ),
)
