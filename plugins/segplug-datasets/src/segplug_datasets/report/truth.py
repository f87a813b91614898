"""Ground truth that predictions are compared with, and how predictions are found by the names of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass
class Truth:
    """Ground truth of images, for predictions with the same values.

    Args:
        classes: Names.
        maps: (name, class ids (H, W)) of every image, read one at a time.
        decode: Converts the values of a prediction file to class ids.
    """

    classes: Sequence[str]
    maps: Any
    decode: Any

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return iter(self.maps)


class ByName(Generic[T]):
    """Predictions by the name of their image, with or without its folders.

    An end that all names share is left out where needed: MMSegmentation names predictions after the whole image file,
    ``..._leftImg8bit.png``.

    Args:
        found: Predictions by the name of their file, without its suffix.
    """

    def __init__(self, found: Mapping[str, T]) -> None:
        self.found = {_last(name): entry for name, entry in reversed(list(found.items()))} | dict(found)
        one = _last(next(iter(found), ""))
        ends = [one[at:] for at, character in enumerate(one) if character == "_"]
        self.ends = ["", *(end for end in ends if all(name.endswith(end) for name in found))]

    def get(self, name: str) -> T | None:
        """Return the prediction of an image, or None."""
        keys = (f"{key}{end}" for end in self.ends for key in (name, _last(name)))
        return next((self.found[key] for key in keys if key in self.found), None)


def _last(name: str) -> str:
    return name.rpartition("/")[2]
