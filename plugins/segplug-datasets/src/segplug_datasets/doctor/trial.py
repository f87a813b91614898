"""Trial of config lines before they are proposed: they must open the sets, read the masks, and yield classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from segkernel.errors import DataError, SegKernelError
from segkernel.labels import IGNORE
from segplug_datasets import image
from segplug_datasets.doctor.parts import Part, open_part
from segplug_datasets.label_reader import LabelReader

TRIED = 12
"""Number of masks to read of each set, evenly spaced."""


def opens(parts: Sequence[Part], specs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these specifications keep all samples, and no image is its own mask."""
    try:
        tried = _opened(parts, specs)
    except SegKernelError:
        return False
    return all(
        new.pairs and len(new.pairs) >= len(old.pairs) and not any(pair.image == pair.mask for pair in new.pairs)
        for new, old in zip(tried, parts)
    )


def teaches(parts: Sequence[Part], specs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the masks can be encoded with these specifications, and have more than one class.

    Files that cannot be read, such as damaged ones, are skipped.
    """
    try:
        seen = [np.unique(ids) for part in _opened(parts, specs) for ids in _masks(part)]
    except SegKernelError:
        return False
    return not seen or len(set(np.concatenate(seen).tolist()) - {IGNORE}) > 1


def _opened(parts: Sequence[Part], specs: Sequence[Mapping[str, Any]]) -> list[Part]:
    return [open_part(part.name, part.key, spec) for part, spec in zip(parts, specs)]


def _masks(part: Part) -> Iterator[np.ndarray]:
    """Yield the class ids of some masks.

    Raises:
        DataError: When a mask has unknown values.
    """
    step = max(len(part.pairs) // TRIED, 1)
    for pair in part.pairs[::step][:TRIED]:
        if pair.mask is None:
            labels = None if part.dataset is None else part.dataset[pair.index].get("seg")
            yield from [] if labels is None else [labels.array]
        elif part.labels is not None:
            yield from _read(LabelReader(part.labels, part.colors), pair.mask, pair.image)


def _read(reader: LabelReader, mask: str, image_path: str) -> Sequence[np.ndarray]:
    try:
        raw = image.read_mask(mask)
    except DataError:
        return []
    return [reader.encode(raw, None, mask, image_path)]
