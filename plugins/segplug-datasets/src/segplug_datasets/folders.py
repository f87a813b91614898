"""Where a data set looked for its files: kept, so that the mask doctor can look there when they do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segkernel.errors import DataError
from segkernel.labels import Color, LabelSpec


@dataclass(frozen=True)
class Folders:
    """Where `PairedFiles` looks for its files, and what they mean.

    Args:
        images: Folder of images.
        masks: Folder of label files; None for a set without.
        image_suffixes: Ends of image names.
        mask_suffix: What follows the name in the label file's.
        split: List of names; None for all files.
        labels: What the values of the label files mean.
        colors: RGB to class id.
    """

    images: Path
    masks: Path | None
    image_suffixes: tuple[str, ...]
    mask_suffix: str
    split: Path | None
    labels: LabelSpec
    colors: Mapping[Color, int]

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Give a `DataError` of this block the attribute ``folders``."""
        try:
            yield
        except DataError as error:
            error.folders = self  # type: ignore[attr-defined]
            raise
