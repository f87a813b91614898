"""Folders that a data set has searched, for the mask doctor, which finds out why files do not match."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segkernel.errors import DataError
from segkernel.labels import Color
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.listing import match_name, named_files


@dataclass(frozen=True)
class Folders:
    """The folders that `PairedFiles` searches, and the meaning of the files.

    Args:
        images: Folder of images.
        masks: Folder of label files; None for a set without annotations.
        image_suffixes: Suffixes of image file names.
        mask_suffix: Suffix of the label file names.
        split: List of names; None for all files.
        labels: Meaning of the values in the label files.
        colors: RGB to class id.
    """

    images: Path
    masks: Path | None
    image_suffixes: tuple[str, ...]
    mask_suffix: str
    split: Path | None
    labels: LabelSpec
    colors: Mapping[Color, int]

    def label_files(self) -> set[str]:
        """Return label files inside the image folder, which a search for images would also find."""
        if self.masks is None or not self.masks.is_dir():
            return set()
        places = [folder.resolve() for folder in (self.images, self.masks)]
        if places[0] not in (places[1], *places[1].parents):
            return set()
        return {path for name, path in named_files(self.masks, (self.mask_suffix,)) if name}

    def names(self, lines: Sequence[str], found: Container[str]) -> list[str]:
        """Return the image name that each line of the list refers to."""
        suffixes = (*self.image_suffixes, self.mask_suffix)
        return [match_name(line, found, self.images, suffixes) for line in lines]

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Set the attribute ``folders`` of a `DataError` raised in this block."""
        try:
            yield
        except DataError as error:
            error.folders = self  # type: ignore[attr-defined]
            raise
