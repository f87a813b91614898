"""Checks of class occurrence: absent classes, a single class, none at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from segkernel.labels import IGNORE
from segplug_datasets.doctor.counts import Inspected, pixels_per_class
from segplug_datasets.doctor.findings import Finding
from segplug_datasets.doctor.parts import Part
from segplug_datasets.doctor.sample_info import SampleInfo


def check_classes(inspected: Inspected) -> Iterator[Finding]:
    """Yield findings on the classes that occur in the sets."""
    merged: dict[str, tuple[Part, Counter[int], list[str], int]] = {}
    for part, samples in inspected:
        if part.labels is None or not any(sample.mask for sample in samples):
            continue
        found, empty, masks = occurring(part, samples)
        if part.set in merged:
            _, others, more, count = merged[part.set]
            found, empty, masks = found + others, [*more, *empty], masks + count
        merged[part.set] = part, found, empty, masks
    trained = merged.get("train", (None, Counter(), [], 0))[1]
    for name, (part, found, empty, masks) in merged.items():
        yield from _of_set(name, part, found, empty, masks, trained)


def occurring(part: Part, samples: Sequence[SampleInfo]) -> tuple[Counter[int], list[str], int]:
    """Return pixels per class id, masks with only ignored pixels, and the number of readable masks."""
    found: Counter[int] = Counter()
    empty, masks = [], 0
    for sample in samples:
        if sample.mask is None or sample.mask.error:
            continue
        own = pixels_per_class(sample.mask, part)
        masks += 1
        if own and set(own) == {IGNORE}:
            empty.append(sample.mask.path)
        found.update(own)
    return found, empty, masks


def _of_set(
    name: str, part: Part, found: Counter[int], empty: Sequence[str], masks: int, trained: Counter[int]
) -> Iterator[Finding]:
    classes = part.labels.classes if part.labels else ()
    present = set(found) - {IGNORE}
    if masks and not present:
        why = "Nothing can be learnt or measured: 'ignore' or 'offset' excludes every value."
        yield Finding("error", "nothing-labelled", name, "all pixels of all masks are ignored", why)
        return
    if empty:
        why = "They take time and do not contribute to training."
        yield Finding("warning", "empty-masks", name, f"{len(empty)} masks have only ignored pixels", why, empty)
    absent = [classes[i] for i in range(len(classes)) if i not in present]
    if len(present) == 1 and len(classes) > 1:
        why = "A model learns to predict it everywhere, and its metrics look perfect. Are these the right masks?"
        only = classes[present.pop()]
        yield Finding("error", "one-class", name, f"every pixel is {only!r}", why)
    elif absent:
        yield _absent(name, absent, [i for i, c in enumerate(classes) if c in absent and i in trained])


def _absent(name: str, absent: Sequence[str], trained: Sequence[int]) -> Finding:
    shown = ", ".join(absent[:10]) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
    what = f"{len(absent)} classes never occur: {shown}"
    if name == "train":
        why = "They cannot be learnt and will never be predicted. Are the values, the classes and their order right?"
        return Finding("warning", "absent-classes", name, what, why)
    why = "Their metrics are nan here, and do not enter the means."
    return Finding("warning" if trained else "note", "absent-classes", name, what, why)
