"""Duplicate images: within a set, and, worse, across sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from segplug_datasets.doctor.counts import Inspected
from segplug_datasets.doctor.findings import Finding, Severity
from segplug_datasets.doctor.parts import Part
from segplug_datasets.doctor.sample_info import THUMBNAIL, SampleInfo

BITS = 256
DIFFERENT_BITS = 10
"""Near-duplicates differ in at most this many of the 256 hash bits, each a comparison of neighbours ..."""
DIFFERENT_GREY = 6
"""... and their thumbnails by at most this many grey levels on average."""
NOISE = 2
"""Grey levels by which a neighbour must be brighter, so that noise in flat regions does not count."""

Place = tuple[int, int]
"""Number of the set, and of the sample in it."""


def check_copies(inspected: Inspected) -> Iterator[Finding]:
    """Yield duplicates and leaks: exact ones by the decoded pixels, near ones by a perceptual hash."""
    exact = _same_pixels(inspected)
    yield from _twice(inspected, exact)
    near = [pair for pair in near_duplicates(inspected) if _digest(inspected, pair[0]) != _digest(inspected, pair[1])]
    yield from _leaks(inspected, [pair for group in exact for pair in _across(inspected, group)], near)
    inside = [pair for pair in near if _set(inspected, pair[0]) == _set(inspected, pair[1])]
    if inside:
        what = f"{len(inside)} pairs of images look the same"
        why = "Frames of one scene, or one image saved twice? Near-duplicates add little to training."
        yield Finding(
            "note", "near-duplicates", _sets(inspected, inside), what, why, _pairs(inspected, inside), len(inside)
        )


def _same_pixels(inspected: Inspected) -> list[list[Place]]:
    groups: dict[str, list[Place]] = defaultdict(list)
    for number, (_, samples) in enumerate(inspected):
        for place, sample in enumerate(samples):
            if sample.image.digest:
                groups[sample.image.digest].append((number, place))
    return [group for group in groups.values() if len(group) > 1]


def _twice(inspected: Inspected, groups: Sequence[Sequence[Place]]) -> Iterator[Finding]:
    """Yield duplicates within a set; with different masks they contradict each other."""
    found: dict[tuple[str, bool], list[list[Place]]] = defaultdict(list)
    for group in groups:
        for name in sorted({_set(inspected, place) for place in group}):
            inside = [place for place in group if _set(inspected, place) == name]
            if len(inside) > 1:
                masks = {sample.mask.digest for place in inside if (sample := _probe(inspected, place)).mask}
                found[name, len(masks) > 1].append(inside)
    for (name, contradict), repeated in found.items():
        files = [" = ".join(_probe(inspected, place).image.path for place in group) for group in repeated]
        what = f"{len(repeated)} images occur more than once"
        if contradict:
            why = "Their masks differ: one of each has to be wrong. Keep the right one."
            yield Finding("warning", "contradicting-duplicates", name, f"{what}, with different masks", why, files)
        else:
            yield Finding("warning", "duplicates", name, what, "They count more than once. Keep one of each.", files)


def _leaks(
    inspected: Inspected, exact: Sequence[tuple[Place, Place]], near: Sequence[tuple[Place, Place]]
) -> Iterator[Finding]:
    near = [pair for pair in near if _set(inspected, pair[0]) != _set(inspected, pair[1])]
    for pairs, kind, word in ((exact, "leak", "the same"), (near, "near-leak", "almost the same")):
        between: dict[str, list[tuple[Place, Place]]] = defaultdict(list)
        for pair in pairs:
            between[f"{_set(inspected, pair[0])}, {_set(inspected, pair[1])}"].append(pair)
        for where, found in between.items():
            what = f"{len(found)} images are {word} in {where.replace(', ', ' and ')}"
            why = (
                "Metrics on training images are too good. Remove the images from one of the sets, or give each set a "
                "list of its names (split: train.txt, split: val.txt); frames of one video, or tiles of one image, "
                "belong in one set."
            )
            severity: Severity = "error" if kind == "leak" else "warning"
            yield Finding(severity, kind, where, what, why, _pairs(inspected, found), len(found))


def near_duplicates(inspected: Inspected) -> list[tuple[Place, Place]]:
    """Return pairs of images that look the same: each image with at most one earlier image per set.

    The hash has one bit per pair of neighbours in a grey thumbnail (difference hash; Krawetz, 2013). If at most k bits
    differ, at least one of k + 1 groups of bits is equal: only images that share a group are compared.
    """
    places = [
        (number, place)
        for number, (_, samples) in enumerate(inspected)
        for place, sample in enumerate(samples)
        if sample.image.thumbnail
    ]
    if len(places) < 2:
        return []
    width, height = THUMBNAIL
    raw = b"".join(_probe(inspected, place).image.thumbnail for place in places)
    thumbnails = np.frombuffer(raw, np.uint8).reshape(-1, height, width).astype(np.int16)
    bits = (thumbnails[:, :, 1:] > thumbnails[:, :, :-1] + NOISE).reshape(-1, BITS)
    sets = np.unique([_set(inspected, place) for place in places], return_inverse=True)[1]
    found: set[tuple[int, int]] = set()
    paired = np.zeros((len(places), sets.max() + 1), bool)
    # Neighbouring bits are correlated; random groups of unrelated images are rarely equal.
    for group in np.array_split(np.random.default_rng(0).permutation(BITS), DIFFERENT_BITS + 1):
        for members in _equal_rows(np.packbits(bits[:, group], axis=1)):
            found |= _near_pairs(members, bits, thumbnails, sets, paired)
    return [(places[first], places[second]) for first, second in sorted(found)]


def _equal_rows(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the indices of equal rows, group by group."""
    view = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).ravel()
    order = np.argsort(view, kind="stable")
    ends = np.flatnonzero(view[order][1:] != view[order][:-1]) + 1
    yield from (members for members in np.split(order, ends) if len(members) > 1)


def _near_pairs(
    members: np.ndarray, bits: np.ndarray, thumbnails: np.ndarray, sets: np.ndarray, paired: np.ndarray
) -> set[tuple[int, int]]:
    """Return pairs among some images; ``paired`` (images, sets) skips images already paired in a set.

    Otherwise a fixed camera would yield quadratically many pairs.
    """
    found = set()
    for position, first in enumerate(members[:-1]):
        others = members[position + 1 :]
        others = others[~paired[others, sets[first]]]
        close = others[(bits[others] != bits[first]).sum(1) <= DIFFERENT_BITS]
        level = np.abs(thumbnails[close] - thumbnails[first]).mean((1, 2))
        close = close[level <= DIFFERENT_GREY]
        paired[close, sets[first]] = True
        found |= {(int(first), other) for other in close.tolist()}
    return found


def _across(inspected: Inspected, group: Sequence[Place]) -> Iterator[tuple[Place, Place]]:
    """Yield one pair of equal images for every two sets in the group."""
    first: dict[str, Place] = {}
    for place in group:
        first.setdefault(_set(inspected, place), place)
    names = list(first)
    yield from ((first[a], first[b]) for i, a in enumerate(names) for b in names[i + 1 :])


def _probe(inspected: Inspected, place: Place) -> SampleInfo:
    return inspected[place[0]][1][place[1]]


def _set(inspected: Inspected, place: Place) -> str:
    part: Part = inspected[place[0]][0]
    return part.set


def _digest(inspected: Inspected, place: Place) -> str:
    return _probe(inspected, place).image.digest


def _pairs(inspected: Inspected, pairs: Sequence[tuple[Place, Place]]) -> list[str]:
    return [f"{_probe(inspected, a).image.path} = {_probe(inspected, b).image.path}" for a, b in pairs]


def _sets(inspected: Inspected, pairs: Sequence[tuple[Place, Place]]) -> str:
    return ", ".join(dict.fromkeys(_set(inspected, pair[0]) for pair in pairs))
