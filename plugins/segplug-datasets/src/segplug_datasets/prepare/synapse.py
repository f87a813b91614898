"""Synapse's abdominal scans ("Beyond the Cranial Vault", 2015) as slices, as for TransUNet (Chen et al., 2021).

Intensities from -125 to 275 Hounsfield units become 0 to 255. Of the 13 organs 8 are kept, the others are background.
Needs nibabel: ``pip install "segplug-datasets[medical]"``.
"""

from __future__ import annotations

import re

import numpy as np

from segplug_datasets.prepare.core import Converter, Part, Rule
from segplug_datasets.prepare.output import Output
from segplug_datasets.prepare.sources import SourceFile
from segplug_datasets.prepare.steps import unzipped
from segplug_datasets.volumes import nifti_from_bytes

TRAIN = (5, 6, 7, 9, 10, 21, 23, 24, 26, 27, 28, 30, 31, 33, 34, 37, 39, 40)
VAL = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)
ORGANS = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8}
"""Aorta, gallbladder, left and right kidney, liver, pancreas, spleen, stomach: the scans' ids and ours."""

_LOW, _HIGH = -125.0, 275.0


def _slices(file: SourceFile) -> np.ndarray:
    """Return a scan as slices (Z, X, Y) with Y flipped, as in TransUNet's files."""
    volume = nifti_from_bytes(unzipped(file.read(), file.name), file.name)
    return volume.transpose(2, 0, 1)[..., ::-1]


def _images(file: SourceFile, target: str, output: Output) -> None:
    for number, plane in enumerate(_slices(file)):
        scaled = (plane.clip(_LOW, _HIGH) - _LOW) * (255 / (_HIGH - _LOW))
        output.image(f"{target}_slice{number:03}.jpg", np.repeat(scaled.astype(np.uint8)[..., None], 3, 2))


def _labels(file: SourceFile, target: str, output: Output) -> None:
    table = np.zeros(256, np.uint8)
    table[list(ORGANS)] = list(ORGANS.values())
    for number, plane in enumerate(_slices(file)):
        output.mask(f"{target}_slice{number:03}.png", table[plane.astype(np.uint8)])


def _place(match: re.Match[str], folder: str) -> str | None:
    number = int(match[1])
    split = "train" if number in TRAIN else "val"
    return f"{folder}/{split}/case{number:04}" if number in (*TRAIN, *VAL) else None


CONVERTER = Converter(
    name="synapse",
    title="Synapse: abdominal scans as slices, 18 scans to train and 12 to validate",
    homepage="www.synapse.org/Synapse:syn3193805",
    terms="after registration; see the homepage",
    download="RawData.zip, or its folder Training with img and label",
    reads="SynapseDataset",
    rules=(
        Rule("scans", r"img/img(\d{4})\.nii(?:\.gz)?", lambda m: _place(m, "img_dir"), _images),
        Rule("labels", r"label/label(\d{4})\.nii(?:\.gz)?", lambda m: _place(m, "ann_dir"), _labels),
    ),
    # The paper counts 2212 slices to train, its list has 2211; both speak of 3779 in all.
    parts=(
        Part("train", "img_dir/train", (2211, 2212), ("ann_dir/train",), (".jpg", ".png")),
        Part("val", "img_dir/val", (1567, 1568), ("ann_dir/val",), (".jpg", ".png")),
    ),
)
