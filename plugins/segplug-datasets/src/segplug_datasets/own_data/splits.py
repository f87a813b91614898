"""Split samples into sets: copies stay together, and every set gets a share of every class.

chosen = split(part, samples, {"train": 0.7, "val": 0.15, "test": 0.15})
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segkernel.errors import DataError
from segkernel.labels import IGNORE
from segplug_datasets.doctor.copies import near_duplicates
from segplug_datasets.doctor.counts import pixels_per_class
from segplug_datasets.doctor.parts import Part
from segplug_datasets.doctor.sample_info import SampleInfo

SEED = 0
SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}

_TRIALS = 300
_LARGEST = 0.5
"""If a group of copies has a larger share, as with a film or a fixed camera, images are split in the order of names."""


@dataclass(frozen=True)
class Split:
    """Indices of the samples of each set, and how many groups of copies were kept together."""

    sets: dict[str, list[int]]
    groups: int
    in_order: bool = False


def split(part: Part, samples: Sequence[SampleInfo], shares: Mapping[str, float]) -> Split:
    """Split samples; equal input gives equal sets.

    Tries several hundred random splits of the groups of copies, and returns the one closest to the shares, in images
    and in images of each class.

    Args:
        part: Their set, which defines the mask values.
        samples: Samples with thumbnails, by which copies are found.
        shares: Share of each set, adding up to 1.

    Raises:
        DataError: When there are fewer samples than sets.
    """
    if len(samples) < len(shares):
        raise DataError(f"{len(samples)} images with masks are too few for {len(shares)} sets: each needs at least one")
    groups = copies(part, samples)
    several = sum(len(group) > 1 for group in groups)
    if len(groups) < len(shares) or max(map(len, groups)) > _LARGEST * len(samples):
        return Split(_in_order(len(samples), shares), several, in_order=True)
    present = _present(part, samples)
    rng = np.random.default_rng(SEED)
    tried = (_assigned(groups, shares, rng) for _ in range(_TRIALS))
    best = min(tried, key=lambda sets: _distance(sets, shares, present))
    return Split({name: sorted(indices) for name, indices in best.items()}, several)


def copies(part: Part, samples: Sequence[SampleInfo]) -> list[list[int]]:
    """Return the samples in groups of images that are or look the same, ordered by their first sample."""
    parent = list(range(len(samples)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    pairs = [(first, second) for (_, first), (_, second) in near_duplicates([(part, samples)])]
    by_digest: dict[str, int] = {}
    for index, sample in enumerate(samples):
        if sample.image.digest:
            pairs.append((by_digest.setdefault(sample.image.digest, index), index))
    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(samples)):
        groups[root(index)].append(index)
    return list(groups.values())


def _in_order(count: int, shares: Mapping[str, float]) -> dict[str, list[int]]:
    """Return consecutive samples for each set, at least one each."""
    ends = np.round(np.cumsum(list(shares.values())) * count).astype(int)
    starts = [0, *ends[:-1]]
    for place in range(len(starts) - 1, 0, -1):
        starts[place] = min(starts[place], count - (len(starts) - place))
    for place in range(1, len(starts)):
        starts[place] = max(starts[place], starts[place - 1] + 1)
    return {name: list(range(start, end)) for name, start, end in zip(shares, starts, [*starts[1:], count])}


def _assigned(
    groups: Sequence[Sequence[int]], shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, list[int]]:
    """Assign the groups in random order, each to the set that is furthest below its share."""
    total = sum(map(len, groups))
    sets: dict[str, list[int]] = {name: [] for name in shares}
    for left, place in zip(range(len(groups), 0, -1), rng.permutation(len(groups)).tolist()):
        empty = [name for name, indices in sets.items() if not indices]
        wanting = empty if len(empty) >= left else shares
        name = max(wanting, key=lambda one: shares[one] - len(sets[one]) / total)
        sets[name] += groups[place]
    return sets


def _present(part: Part, samples: Sequence[SampleInfo]) -> np.ndarray:
    """Return which classes occur in each image, (images, classes) bool."""
    count = len(part.labels.classes) if part.labels else 0
    found = np.zeros((len(samples), count), bool)
    for row, sample in enumerate(samples):
        seen: Counter[int] = pixels_per_class(sample.mask, part) if sample.mask else Counter()
        found[row, [place for place in seen if place != IGNORE]] = True
    return found


def _distance(sets: Mapping[str, Sequence[int]], shares: Mapping[str, float], present: np.ndarray) -> float:
    """Return the distance of sets from their shares; a class missing in a set weighs most."""
    totals = present.sum(0)
    worst = 0.0
    for name, indices in sets.items():
        worst += abs(len(indices) / len(present) - shares[name])
        own = present[list(indices)].sum(0)
        known = totals > 0
        worst += float(np.abs(own[known] / totals[known] - shares[name]).mean()) if known.any() else 0.0
        worst += float(((own == 0) & (totals >= len(sets))).sum())
    return worst
