"""LIP, Look into Person: crops of single people from COCO images, in 20 parts (Gong et al., 2017).

Homepage: sysuhcp.com/dataset/lip. For non-commercial research only.
"""

from __future__ import annotations

from segplug_datasets.files import BaseSegDataset, DataPrefix
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.tables import colors, names

_CLASSES = """
Background, Hat, Hair, Glove, Sunglasses, UpperClothes, Dress, Coat, Socks, Pants, Jumpsuits, Scarf, Skirt, Face,
Left-arm, Right-arm, Left-leg, Right-leg, Left-shoe, Right-shoe
"""

_PALETTE = """
000000 800000 ff0000 005500 aa0033 ff5500 000055 0077dd 555500 005555 553300 345680 008000 0000ff 33aadd 00ffff 55ffaa
aaff55 ffff00 ffaa00
"""


class LIPDataset(BaseSegDataset):
    """30462 images to train and 10000 to validate (``val_images``, ``val_segmentations``); left and right differ.

    `RandomFlip` does not swap the left and right classes: leave it out, or accept the wrong labels.
    """

    spec = LabelSpec(classes=names(_CLASSES), palette=colors(_PALETTE))
    root = "data/LIP"
    prefix = DataPrefix(img_path="train_images", seg_map_path="train_segmentations")
