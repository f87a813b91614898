"""Checks of mask values against the label specification: black and white, off by one, damaged by JPEG ..."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from segkernel.labels import IGNORE
from segplug_datasets.doctor.counts import MaskCounts, meaning, without_data
from segplug_datasets.doctor.findings import Finding, config_lines
from segplug_datasets.image import NOTHING

CITYSCAPES_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
                  27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
"""The 19 training ids of Cityscapes' label ids (labels.py of cityscapesScripts); the others are ignored."""

RARE = 0.01
"""A value with a smaller share of pixels than this is not a class when masks look blurred."""

APART = 8
"""Blurred values closer than this cannot be distinguished."""


Diagnosis = Callable[[MaskCounts], Finding | None]


def check_values(counts: MaskCounts) -> Iterator[Finding]:
    """Yield findings on the values of masks: the first diagnosis that fits, or else further checks."""
    if not counts.values:
        return
    yield from filter(None, [no_data(counts)])
    diagnoses: tuple[Diagnosis, ...] = (
        lossy,
        black_and_white,
        cityscapes_label_ids,
        instances,
        shifted_by_one,
        sparse,
        out_of_range,
    )
    if counts.labels is None:
        diagnoses = (lossy, black_and_white, proposed_labels)
    found = next(filter(None, (diagnose(counts) for diagnose in diagnoses)), None)
    if found:
        yield found
        return
    yield from filter(None, (needless_offset(counts), mixed_black_and_white(counts)))


def no_data(counts: MaskCounts) -> Finding | None:
    """Values that the files declare as no-data, and NaN."""
    own = meaning(counts.labels)
    masks = [mask for mask in counts.numbers if any(v in mask.values and v not in own for v in without_data(mask))]
    if not masks:
        return None
    values = {v for mask in masks for v in without_data(mask) if v in mask.values and v not in own}
    share = sum(counts.values[value] for value in values) / counts.values.total()
    shown = ", ".join("NaN" if value == NOTHING else str(value) for value in sorted(values))
    what = f"{len(masks)} masks contain no-data values in {share:.1%} of all pixels: {shown}"
    why = "These pixels are ignored. Add the value to 'ignore', or give it a class, to make that explicit."
    return Finding("note", "no-data", counts.where, what, why, [mask.path for mask in masks])


def lossy(counts: MaskCounts) -> Finding | None:
    """Masks saved as JPEG, or resized with interpolation: values near the drawn ones."""
    masks = [mask.path for mask in counts.numbers if mask.header.lossy]
    blurred = _is_blurred(counts)
    if not blurred and not (masks and counts.unknown):
        if not masks:
            return None
        why = "JPEG and lossy WebP change values; these look intact, but save masks as PNG."
        what = f"{len(masks)} masks are saved with lossy compression"
        return Finding("warning", "lossy-masks", counts.where, what, why, masks)
    files = masks or counts.files_with(counts.unknown)
    cause = "saved as lossy JPEG" if masks else "blurred: resized with interpolation, or once stored as JPEG"
    values = _nearest(counts)
    why = (
        f"{len(counts.values)} values occur where few were drawn: the masks are {cause}. Edges have classes that were "
        "never drawn. Export them again as PNG, without smoothing."
    )
    if values:
        why += " Until then, these lines read each value as the drawn one nearest to it."
    else:
        why += " The drawn values are too close to each other to be told apart: the masks must be redrawn."
    changes = {"values": values, **_named_classes(counts, len(set(values.values())))}
    fix = config_lines(counts.parts, changes) if values else ""
    return Finding("error", "lossy-masks", counts.where, f"masks {cause}", why, files, fix=fix)


def _is_blurred(counts: MaskCounts) -> bool:
    """Whether most masks with several values have many rare values."""
    unknown = set(counts.unknown)
    masks = [mask.values for mask in counts.numbers if len(mask.values) > 1]
    rare = [[value for value, n in m.items() if value in unknown and n < RARE * sum(m.values())] for m in masks]
    return sum(len(values) >= APART for values in rare) > 0.5 * len(masks) and max(counts.values) < 256


def _nearest(counts: MaskCounts) -> dict[int, int]:
    """Return the class of each value: the index of the nearest frequent value; empty if those are too close."""
    total = counts.values.total()
    centres: list[int] = []
    for value, count in counts.values.most_common():
        if count >= RARE * total and all(abs(value - centre) >= APART for centre in centres):
            centres.append(value)
    wanted = len(counts.labels.classes) if counts.labels else len(centres)
    if len(centres) < 2 or max(counts.values) >= 256 or len(centres) < wanted:
        return {}
    centres = sorted(centres[:wanted])
    values = sorted({*range(IGNORE), *counts.values})  # other masks may have further ones between the drawn ones
    return {value: min(range(wanted), key=lambda place: abs(centres[place] - value)) for value in values}


def black_and_white(counts: MaskCounts) -> Finding | None:
    """Masks of 0 and 255 whose white is read as "ignored"."""
    if not {255} <= set(counts.values) <= {0, 255} or counts.known.get(255, IGNORE) != IGNORE:
        return None
    if counts.labels is not None and len(counts.labels.classes) > 2:
        return None
    why = "255 means 'ignored', so the second class would never be learnt. These lines make white class 1."
    changes = {"values": {0: 0, 255: 1}, **_named_classes(counts, 2)}
    files = counts.files_with([255])
    fix = config_lines(counts.parts, changes)
    return Finding("error", "black-and-white-masks", counts.where, "masks are black and white: 0 and 255", why, files,
                   fix=fix)  # fmt: skip


def mixed_black_and_white(counts: MaskCounts) -> Finding | None:
    """Some masks of 0 and 1, others of 0 and 255."""
    if set(counts.values) != {0, 1, 255} or counts.known.get(255) != IGNORE or counts.known.get(1) != 1:
        return None
    ones = [mask.path for mask in counts.numbers if 1 in mask.values]
    whites = [mask.path for mask in counts.numbers if 255 in mask.values]
    if not ones or not whites or set(ones) & set(whites):
        return None
    why = "No mask has both, so 255 is probably the same class as 1, drawn by another tool, and not 'unknown'."
    what = f"{len(ones)} masks mark the class with 1, {len(whites)} with 255"
    fix = config_lines(counts.parts, {"values": {0: 0, 1: 1, 255: 1}})
    return Finding("warning", "mixed-black-and-white-masks", counts.where, what, why, whites, fix=fix)


def cityscapes_label_ids(counts: MaskCounts) -> Finding | None:
    """Cityscapes' label ids instead of the 19 training ids."""
    classes = counts.labels.classes if counts.labels else ()
    if not counts.unknown or classes[:3] != ("road", "sidewalk", "building") or len(classes) != 19:
        return None
    if not set(counts.values) <= {*range(34), 255}:
        return None
    values = {value: CITYSCAPES_IDS.get(value, IGNORE) for value in [*range(34), 255]}
    why = (
        "The values are label ids (road is 7), not training ids (road is 0). "
        "Use the files *_gtFine_labelTrainIds.png, or these lines."
    )
    fix = config_lines(counts.parts, {"values": values})
    return Finding("error", "cityscapes-label-ids", counts.where, "masks have Cityscapes' label ids", why,
                   counts.files_with(counts.unknown), fix=fix)  # fmt: skip


def instances(counts: MaskCounts) -> Finding | None:
    """Masks that number the objects of each image: 1, 2, 3 ..."""
    classes = counts.labels.classes if counts.labels else ()
    if not counts.unknown or len(classes) != 2:
        return None
    objects = [len(set(mask.values) - {0, 255}) for mask in counts.numbers]
    counted = [set(mask.values) - {0, 255} == set(range(1, n + 1)) for mask, n in zip(counts.numbers, objects)]
    if sum(counted) < 0.9 * len(counted) or len(set(objects)) < 2 or max(objects) < 2:
        return None
    values = {value: int(value > 0) for value in sorted({0, *counts.values} - {255})}
    why = "The values number the objects of each image. These lines merge them into one class."
    fix = config_lines(counts.parts, {"values": values})
    return Finding("error", "instance-masks", counts.where, f"masks number objects, up to {max(objects)}", why,
                   counts.files_with(counts.unknown), fix=fix)  # fmt: skip


def shifted_by_one(counts: MaskCounts) -> Finding | None:
    """Classes that start at 1, with 0 for ignored pixels, or without 0 at all."""
    labels = counts.labels
    if labels is None or labels.offset or labels.values is not None or counts.unknown != [len(labels.classes)]:
        return None
    count, files = len(labels.classes), counts.files_with(counts.unknown)
    fix = config_lines(counts.parts, {"offset": 1})
    if 0 not in counts.values:
        why = f"No mask contains 0, so every value is one too high. These lines subtract 1: 1 is {labels.classes[0]!r}."
        return Finding("error", "shifted-by-one", counts.where, f"values are 1 to {count}, not 0 to {count - 1}", why,
                       files, fix=fix)  # fmt: skip
    other = config_lines(counts.parts, {"classes": ["background", *labels.classes]})
    if other:
        fix += "\n# or, if 0 is a separate class:\n" + "\n".join(f"# {line}" for line in other.splitlines())
    why = f"There are {count} classes and {count + 1} values. With these lines 0 is ignored and 1 is the first class."
    return Finding("error", "off-by-one", counts.where, f"values are 0 to {count}, one more than classes", why, files,
                   fix=fix)  # fmt: skip


def sparse(counts: MaskCounts) -> Finding | None:
    """As many values as classes, but not 0, 1, 2 ..."""
    drawn = sorted(value for value in counts.values if counts.known.get(value) != IGNORE or value < 255)
    classes = counts.labels.classes if counts.labels else ()
    if not counts.unknown or len(drawn) != len(classes) or len(drawn) < 2:
        return None
    why = (
        f"There are {len(drawn)} values and {len(classes)} classes, but the values are {_listed(drawn)}. "
        "These lines map them in ascending order: check that it matches the class list."
    )
    fix = config_lines(counts.parts, {"values": {value: place for place, value in enumerate(drawn)}})
    return Finding("error", "sparse-values", counts.where, "values are not 0, 1, 2 ...", why,
                   counts.files_with(counts.unknown), fix=fix)  # fmt: skip


def out_of_range(counts: MaskCounts) -> Finding | None:
    """Values that are neither a class nor ignored."""
    unknown = counts.unknown
    if not unknown:
        return None
    total = counts.values.total()
    share = sum(counts.values[value] for value in unknown) / total
    count = len(counts.labels.classes) if counts.labels else 0
    what = f"values {_listed(unknown)} do not belong to any of the {count} classes ({share:.1%} of the pixels)"
    why = "Add their classes, map them with 'values', or ignore them, as these lines do."
    if max(unknown) > 255:
        why = "Values above 255 are usually object ids, not classes: look for another label file. " + why
    ignored = sorted({*(counts.labels.ignore if counts.labels else ()), *unknown})
    fix = config_lines(counts.parts, {"ignore": ignored}) if len(unknown) <= 64 else ""
    return Finding("error", "labels-out-of-range", counts.where, what, why, counts.files_with(unknown), fix=fix)


def needless_offset(counts: MaskCounts) -> Finding | None:
    """An offset of 1 for masks that start at 0 already."""
    labels = counts.labels
    if labels is None or labels.offset != 1 or not counts.values:
        return None
    if counts.values[len(labels.classes)] or counts.values[0] < 0.1 * counts.values.total():
        return None
    why = (
        f"With offset: 1 (reduce_zero_label), {counts.values[0] / counts.values.total():.0%} of the pixels are "
        f"ignored, and {labels.classes[-1]!r} never occurs: do the masks start at 0 already?"
    )
    fix = config_lines(counts.parts, {"offset": 0})
    return Finding("warning", "needless-offset", counts.where, "masks may start at 0, but 0 is left out", why, fix=fix)


def proposed_labels(counts: MaskCounts) -> Finding | None:
    """A specification for masks without one."""
    drawn = sorted(value for value in counts.values if counts.known.get(value) != IGNORE)
    if not drawn:
        return None
    changes: dict[str, Any] = {"classes": [f"class_{place}" for place in range(len(drawn))]}
    if drawn == list(range(1, len(drawn) + 1)):
        changes["offset"] = 1
    elif drawn != list(range(len(drawn))):
        changes["values"] = {value: place for place, value in enumerate(drawn)}
    why = "No classes were given. These lines read every value as a class: fill in the class names."
    what = f"masks have {len(drawn)} values: {_listed(drawn)}"
    fix = config_lines(counts.parts, changes)
    return Finding("note", "classes-unknown", counts.where, what, why, fix=fix)


def _named_classes(counts: MaskCounts, count: int) -> dict[str, Any]:
    """Return class names for sets without them."""
    if counts.labels is not None and len(counts.labels.classes) == count:
        return {}
    names = ["background", "foreground"] if count == 2 else [f"class_{place}" for place in range(count)]
    return {"classes": names}


def _listed(values: Sequence[int]) -> str:
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values[:12])) + (f" and {len(values) - 12} more" if len(values) > 12 else "")
