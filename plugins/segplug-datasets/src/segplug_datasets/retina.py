"""Retinal vessels: CHASE DB1, DRIVE, HRF and STARE, in the layout of MMSegmentation's conversion scripts.

Label values are 0 and 1; 255 is ignored. The original archives have 0 and 255: read them with
``FolderDataset(values={0: 0, 255: 1})``, or let ``seg-kernel data prepare`` write this layout. Homepages with the terms
of use: blogs.kingston.ac.uk/retinal/chasedb1; drive.grand-challenge.org, after registration;
www5.cs.fau.de/research/data/fundus-images, CC BY 4.0 (HRF); cecas.clemson.edu/~ahoover/stare.
"""

from __future__ import annotations

from segplug_datasets.files import BaseSegDataset, DataPrefix
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.tables import colors

LABELS = LabelSpec(classes=("background", "vessel"), palette=colors("787878 06e6e6"))


class _RetinaDataset(BaseSegDataset):
    """The folder layout shared by the four sets."""

    spec = LABELS
    prefix = DataPrefix(img_path="images/training", seg_map_path="annotations/training")


class ChaseDB1Dataset(_RetinaDataset):
    """CHASE DB1: 28 images of children's eyes, 999 x 960, labels of the first observer (Fraz et al., 2012)."""

    root = "data/CHASE_DB1"
    suffixes = (".png", "_1stHO.png")


class DRIVEDataset(_RetinaDataset):
    """DRIVE: 40 images of 565 x 584, labels of the first observer (Staal et al., 2004)."""

    root = "data/DRIVE"
    suffixes = (".png", "_manual1.png")


class HRFDataset(_RetinaDataset):
    """HRF: 45 images of 3504 x 2336, of healthy and diseased eyes (Budai et al., 2013)."""

    root = "data/HRF"
    suffixes = (".png", ".png")


class STAREDataset(_RetinaDataset):
    """STARE: 20 images of 700 x 605, labels of Adam Hoover (Hoover et al., 2000)."""

    root = "data/STARE"
    suffixes = (".png", ".ah.png")
