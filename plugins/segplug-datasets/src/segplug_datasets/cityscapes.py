"""Cityscapes: street scenes of 50 cities, 2048 x 1024, 19 classes (Cordts et al., 2016).

And two night-time test sets with its classes. ``seg-kernel data prepare cityscapes`` makes the label files. Homepages
with the terms of use: www.cityscapes-dataset.com, for non-commercial research, after registration;
www.trace.ethz.ch/publications/2019/GCMA_UIoU (Dark Zurich); people.ee.ethz.ch/~daid/NightDriving (Nighttime Driving).
"""

from __future__ import annotations

from segplug_datasets.files import BaseSegDataset, DataPrefix
from segplug_datasets.label_spec import LabelSpec

LABELS = LabelSpec(
    classes=(
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    ),
    palette=(
        *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153)),
        *((250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60)),
        *((255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
    ),
)


class CityscapesDataset(BaseSegDataset):
    """Cityscapes with ``labelTrainIds`` label files (0 to 18, 255 ignored), one folder per city."""

    spec = LABELS
    root = "data/cityscapes"
    prefix = DataPrefix(img_path="leftImg8bit/train", seg_map_path="gtFine/train")
    suffixes = ("_leftImg8bit.png", "_gtFine_labelTrainIds.png")


class DarkZurichDataset(BaseSegDataset):
    """Dark Zurich: Zurich by night, 1920 x 1080, the 50 validation images that have labels (Sakaridis et al., 2019)."""

    spec = LABELS
    root = "data/dark_zurich"
    prefix = DataPrefix(img_path="rgb_anon/val/night/GOPR0356", seg_map_path="gt/val/night/GOPR0356")
    suffixes = ("_rgb_anon.png", "_gt_labelTrainIds.png")


class NightDrivingDataset(BaseSegDataset):
    """Nighttime Driving: 50 test images of 1920 x 1080 with coarse labels (Dai and Van Gool, 2018)."""

    spec = LABELS
    root = "data/NighttimeDrivingTest"
    prefix = DataPrefix(img_path="leftImg8bit/test/night", seg_map_path="gtCoarse_daytime_trainvaltest/test/night")
    suffixes = ("_leftImg8bit.png", "_gtCoarse_labelTrainIds.png")
