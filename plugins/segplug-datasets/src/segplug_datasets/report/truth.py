"""Ground truth that predictions are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


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
