"""Trying config lines before they are proposed: do they open the set, read its masks, and leave something to learn?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from segkernel.errors import DataError, SegKernelError
from segkernel.labels import IGNORE
from segplug_datasets import image
from segplug_datasets.doctor.parts import Part, opened
from segplug_datasets.doctor.sample_info import Pair
from segplug_datasets.label_reader import LabelReader

TRIED = 12
"""Masks that are read, spread over the set."""


def works(part: Part, spec: Mapping[str, Any]) -> bool:
    """Whether a set of this specification has as many samples as before, all of whose masks can be read.

    What cannot be read of files for another reason, such as damage, is no matter here.
    """
    try:
        tried = opened(part.name, part.key, spec)
    except SegKernelError:
        return False
    if not tried.pairs or len(tried.pairs) < len(part.pairs) or any(pair.image == pair.mask for pair in tried.pairs):
        return False
    ids, drawn, first = set[int](), False, None
    try:
        for raw, labels in _masks(tried):
            first = raw[0, 0] if first is None else first
            drawn = drawn or not np.array_equal(np.broadcast_to(first, raw.shape), raw)
            ids |= set(np.unique(labels).tolist())
    except DataError:
        return False
    learnt = ids - {IGNORE}
    return not ids or len(learnt) > 1 or (len(learnt) == 1 and not drawn)


def _masks(part: Part) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the raw values and the class ids of some masks.

    Raises:
        DataError: When the values of one mean nothing.
    """
    step = max(len(part.pairs) // TRIED, 1)
    for pair in part.pairs[::step][:TRIED]:
        yield from _asked(part.dataset, pair) if pair.mask is None else _read(part, pair.mask, pair.image)


def _asked(dataset: Any, pair: Pair) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    labels = None if dataset is None or pair.index is None else dataset[pair.index].get("seg")
    return [] if labels is None else [(labels.array, labels.array)]


def _read(part: Part, mask: str, picture: str) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    try:
        raw = image.read_mask(mask)
    except DataError:
        return []
    if part.labels is None:
        return []
    return [(raw, LabelReader(part.labels, part.colors).encode(raw, None, mask, picture))]
