"""Aerial and satellite images, cut into tiles: ISPRS Vaihingen and Potsdam, LoveDA and iSAID.

``seg-kernel data prepare`` cuts them. Homepages with the terms of use: www.isprs.org/education/benchmarks/UrbanSemLab,
on request; github.com/Junjue-Wang/LoveDA, CC BY-NC-SA 4.0; captain-whu.github.io/iSAID, non-commercial research only.
"""

from __future__ import annotations

from segplug_datasets.files import BaseSegDataset, DataPrefix
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.tables import colors, names

_ISAID_CLASSES = """
background, ship, store_tank, baseball_diamond, tennis_court, basketball_court, Ground_Track_Field, Bridge,
Large_Vehicle, Small_Vehicle, Helicopter, Swimming_pool, Roundabout, Soccer_ball_field, plane, Harbor
"""

_ISAID_PALETTE = """
000000 00003f 003f3f 003f00 003f7f 003fbf 003fff 007f3f 007f7f 00007f 0000bf 0000ff 00bf7f 007fbf 007fff 00649b
"""


class _TilesDataset(BaseSegDataset):
    """Folders and suffixes shared by the tiled sets."""

    prefix = DataPrefix(img_path="img_dir/train", seg_map_path="ann_dir/train")
    suffixes = (".png", ".png")


class ISPRSDataset(_TilesDataset):
    """ISPRS Vaihingen: near infrared, red and green of a town; file values 1 to 6, 0 is ignored."""

    spec = LabelSpec(
        classes=("impervious_surface", "building", "low_vegetation", "tree", "car", "clutter"),
        palette=colors("ffffff 0000ff 00ffff 00ff00 ffff00 ff0000"),
        offset=1,
    )
    root = "data/vaihingen"


class PotsdamDataset(ISPRSDataset):
    """ISPRS Potsdam: a city in colour, with Vaihingen's classes; file values 1 to 6, 0 is ignored."""

    root = "data/potsdam"


class LoveDADataset(_TilesDataset):
    """LoveDA: urban and rural scenes, 1024 x 1024; file values 1 to 7, 0 is ignored (Wang et al., 2021)."""

    spec = LabelSpec(
        classes=("background", "building", "road", "water", "barren", "forest", "agricultural"),
        palette=colors("ffffff ff0000 ffff00 0000ff 9f81b7 00ff00 ffc380"),
        offset=1,
    )
    root = "data/loveDA"


class iSAIDDataset(_TilesDataset):
    """iSAID: ships, vehicles and sports fields from above, the background and 15 classes (Waqas Zamir et al., 2019)."""

    spec = LabelSpec(classes=names(_ISAID_CLASSES), palette=colors(_ISAID_PALETTE))
    root = "data/iSAID"
    suffixes = (".png", "_instance_color_RGB.png")
