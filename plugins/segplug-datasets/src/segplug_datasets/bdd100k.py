"""BDD100K: drives through the United States by day and night, 1280 x 720, Cityscapes' classes (Yu et al., 2020).

Homepage: bdd-data.berkeley.edu. Free for education and non-commercial research, after registration.
"""

from __future__ import annotations

from segplug_datasets.cityscapes import LABELS
from segplug_datasets.files import BaseSegDataset, DataPrefix


class BDD100KDataset(BaseSegDataset):
    """The 10k images that have a mask per pixel, 7000 to train and 1000 to validate: 0 to 18, 255 is ignored."""

    spec = LABELS
    root = "data/bdd100k"
    prefix = DataPrefix(img_path="images/10k/train", seg_map_path="labels/sem_seg/masks/train")
