"""Roles and splits from names of folders and files: image, mask or neither; training, validation or test."""

from __future__ import annotations

import re
from collections.abc import Iterable

IMAGES = frozenset(
    ["frame", "frames", "image", "images", "img", "imgs", "input", "inputs", "photo", "photos", "picture", "pictures",
     "rgb", "scan", "scans"]
)  # fmt: skip
MASKS = frozenset(
    ["ann", "anno", "annos", "annot", "annotated", "annotation", "annotations", "annots", "groundtruth", "gt", "label",
     "labeled", "labelled", "labels", "manual", "mask", "masks", "seg", "segm", "segmentation", "segmentations", "segs",
     "semantic", "target", "targets", "truth"]
)  # fmt: skip
SECONDARY = frozenset(
    ["boundaries", "boundary", "color", "colored", "confidence", "depth", "edge", "edges", "fov", "instance",
     "instances", "nd", "object", "objects", "overlay", "overlays", "panoptic", "preview", "previews", "roi", "second",
     "skeleton", "visualization", "visualizations", "weight", "weights"]
)  # fmt: skip
"""Label folders used only if there is no other: they rarely contain the class of each pixel."""
SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}

_ROLES = IMAGES | MASKS | SECONDARY
_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def tokens(name: str) -> list[str]:
    """Return the words of a name in lower case: ``trainAnnot_01`` and ``trainannot_01`` are train, annot, 01."""
    return [part for word in _TOKEN.findall(name) for part in _split_word(word.lower())]


def _split_word(word: str) -> Iterable[str]:
    """Split a word that begins or ends with the name of a split: ``trainannot``, ``labelstrain``."""
    if word in SPLITS or word in _ROLES:
        return (word,)
    for known in sorted(SPLITS, key=len, reverse=True):
        if word.startswith(known) and word[len(known) :] in _ROLES:
            return known, word[len(known) :]
        if word.endswith(known) and word[: -len(known)] in _ROLES:
            return word[: -len(known)], known
    return (word,)


def split_of(name: str) -> str | None:
    """Return the split in a name: ``train``, ``val`` or ``test``; None if it contains none or several."""
    found = {SPLITS[word] for word in tokens(name) if word in SPLITS}
    return found.pop() if len(found) == 1 else None


def without_split(name: str) -> str:
    """Return the words of a name that do not name a split."""
    return " ".join(word for word in tokens(name) if word not in SPLITS)


def without_role(name: str) -> tuple[str, ...]:
    """Return the words of a name that do not name a role: equal for ``img_12`` and ``mask_12``."""
    return tuple(word for word in tokens(name) if word not in _ROLES)


def role_of(name: str) -> str | None:
    """Return the role in a name: ``mask``, ``image`` or ``other``; None if it contains none."""
    words = set(tokens(name))
    if words & MASKS:
        return "mask"
    if words & IMAGES:
        return "image"
    return "other" if words & SECONDARY else None
