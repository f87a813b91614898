"""StreetScenes with one image that cannot be read."""

from __future__ import annotations

from segkernel.errors import DataError
from segkernel.sample import Sample
from segplug_datasets.street_scenes import StreetScenes


class BrokenScenes(StreetScenes):
    """Five images of 64 x 96.

    Args:
        broken: The index of the one that cannot be read.
    """

    def __init__(self, broken: int) -> None:
        super().__init__(split="val", length=5, size=(64, 96))
        self.broken = broken

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError("cannot be read", f"image_{index}.png")
        return super().__getitem__(index)
