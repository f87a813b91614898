"""StreetScenes: a synthetic data set, rendered on access. No download, no files.

dataset = StreetScenes(split="train", size=(192, 256), length=1000)
sample = dataset[0]
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.catalog import display
from segkernel.errors import UsageError
from segkernel.labels import Color
from segkernel.sample import LabelMap, Sample
from segplug_datasets.label_spec import LabelSpec

LABELS = LabelSpec(
    classes=("sky", "building", "road", "sidewalk", "vegetation", "car", "person", "pole"),
    palette=(
        *((70, 130, 180), (105, 105, 120), (128, 64, 128), (244, 35, 232)),
        *((107, 142, 35), (0, 0, 200), (220, 20, 60), (250, 190, 40)),
    ),
)

_SPLITS = {"train": (0, 1000), "val": (1, 100), "test": (2, 200)}  # random stream, default length


class StreetScenes:
    """Drawn streets with houses, trees, cars, people and signs, in sun, fog, dusk and night: 8 classes.

    Sample i is a pure function of (seed, split, i, size): the same on every machine with the same OpenCV, whatever the
    length.

    Args:
        split: ``train``, ``val`` or ``test``; they are disjoint.
        size: (height, width) in pixels.
        length: Number of samples; 1000 for training, 100 for validation, 200 for the test when None.
        seed: Seed of all random draws; another seed gives another data set.

    Raises:
        UsageError: When the split is unknown, the size below 32 x 32 or the length negative.
    """

    labels = LABELS

    _repr_html_ = display

    def __init__(
        self,
        split: Literal["train", "val", "test"] = "train",
        size: tuple[PositiveInt, PositiveInt] = (192, 256),
        length: PositiveInt | None = None,
        seed: NonNegativeInt = 0,
    ) -> None:
        if split not in _SPLITS:
            raise UsageError(f"StreetScenes has the splits {', '.join(_SPLITS)}, not {split!r}")
        if min(size) < 32 or (length is not None and length < 0):
            raise UsageError(f"StreetScenes needs a size of 32 x 32 or more and a length from 0: {size}, {length}")
        self.split, self.size, self.seed = split, (size[0], size[1]), seed
        self.length = _SPLITS[split][1] if length is None else length

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return LABELS.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """One RGB colour per class."""
        return LABELS.palette

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        from segplug_datasets.street.scene import draw_scene

        if not -self.length <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        index %= self.length
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, _SPLITS[self.split][0], index)))
        image, labels = draw_scene(rng, self.size)
        name = f"{self.split}_{index:05d}"
        return Sample(
            image=image, fields={"seg": LabelMap(labels)}, meta={"path": f"StreetScenes/{name}", "name": name}
        )
