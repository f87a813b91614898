"""Medical images in ordinary files: REFUGE, the eye's disc and cup, and slices of Synapse's abdominal scans."""

from __future__ import annotations

from segplug_datasets.files import BaseSegDataset, DataPrefix
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.tables import colors, names

_ORGANS = "background, aorta, gallbladder, left_kidney, right_kidney, liver, pancreas, spleen, stomach"


class REFUGEDataset(BaseSegDataset):
    """REFUGE: fundus images, 400 each to train, validate and test (Orlando et al., 2020).

    ``seg-kernel data prepare refuge`` writes this layout. Homepage: refuge.grand-challenge.org, after registration.
    """

    spec = LabelSpec(classes=("background", "Optic Cup", "Optic Disc"), palette=colors("787878 06e6e6 383b78"))
    root = "data/REFUGE"
    prefix = DataPrefix(img_path="images/training", seg_map_path="annotations/training")
    suffixes = (".png", ".png")


class SynapseDataset(BaseSegDataset):
    """Synapse, "Beyond the Cranial Vault" (2015): slices of 30 scans, 18 to train, as TransUNet divides them.

    The five other labelled organs are background (Chen et al., TransUNet, 2021).
    ``seg-kernel data prepare synapse`` writes this layout. Homepage: synapse.org, syn3193805, after registration.
    Metrics of slices are not comparable with those of whole scans.
    """

    spec = LabelSpec(
        classes=names(_ORGANS),
        palette=colors("000000 0000ff 00ff00 ff0000 00ffff ff00ff ffff00 3cffff f0f0f0"),
    )
    root = "data/synapse"
    prefix = DataPrefix(img_path="img_dir/train", seg_map_path="ann_dir/train")
