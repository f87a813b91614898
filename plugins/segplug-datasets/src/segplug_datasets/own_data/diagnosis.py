"""Find how to read the masks of a folder: apply class lists and the fixes that the doctor proposes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segkernel.errors import DataError
from segkernel.image import opencv
from segkernel.labels import IGNORE
from segplug_datasets import image
from segplug_datasets.doctor.colors import published_palette
from segplug_datasets.doctor.counts import Inspected, MaskCounts, count_masks
from segplug_datasets.doctor.findings import Finding
from segplug_datasets.doctor.image_files import is_sound
from segplug_datasets.doctor.parts import Part, open_part
from segplug_datasets.doctor.report import check, text_of
from segplug_datasets.doctor.sample_info import MaskInfo, SampleInfo
from segplug_datasets.own_data.class_lists import ClassList
from segplug_datasets.own_data.names import role_of, without_split

_ROUNDS = 6
_APPLIED = {"mixed-black-and-white-masks"}
"""Warnings whose fixes are applied, as those of errors are."""

_FATAL = {
    "colour-masks", "lossy-masks", "labels-out-of-range", "unknown-colours", "palettes-differ", "one-class",
    "nothing-labelled", "black-and-white-masks", "cannot-be-opened", "empty", "off-by-one", "shifted-by-one",
    "sparse-values", "instance-masks", "cityscapes-label-ids",
}  # fmt: skip
"""Errors that make all masks unusable or misread; for other errors, only the affected files are left out."""

_SHARE = 0.995  # least share of the pixels of coloured masks whose colour is in the class list
_SAMPLED = 24  # masks
_LARGEST = 0.8  # least share of an object's pixels in its largest piece


@dataclass
class Diagnosis:
    """The sets with the final arguments for their masks, and the findings of the doctor.

    Args:
        inspected: The sets with their inspected samples.
        applied: Findings whose fixes were applied.
        left: The remaining findings.
        named: Whether class names are known: from a list, an annotation file or a known palette.
        classes: The class list in use.
        palette_of: The published set whose palette was recognised.
    """

    inspected: list[tuple[Part, list[SampleInfo]]]
    applied: list[Finding] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)
    named: bool = True
    classes: ClassList | None = None
    palette_of: str | None = None


def diagnose(inspected: Inspected, lists: Sequence[ClassList] = ()) -> Diagnosis:
    """Return the sets with the arguments with which their masks can be read.

    Args:
        inspected: `FolderDataset` sets without classes, or data sets with known classes.
        lists: Class lists found with the data; the one that covers most pixels is used.

    Raises:
        DataError: When the masks stay unusable or show fewer than two classes; with the doctor's text.
    """
    sets = [(part, list(samples)) for part, samples in inspected]
    of_folders = all(part.type == "FolderDataset" and part.labels is None for part, _ in sets)
    found = Diagnosis(sets)
    if of_folders:
        counts = next(iter(count_masks(sets)))
        classes = max(lists, key=lambda one: _covered_pixels(one, counts), default=None)
        found.classes, found.named = classes, classes is not None
        given = _from_list(classes, counts) if classes else _objects(counts)
        found.inspected = [(_with(part, given), samples) for part, samples in sets] if given else sets
    for _ in range(_ROUNDS):
        report = check(found.inspected)
        fixable = [
            f
            for f in report.findings
            if f.fix and (f.severity == "error" or f.kind in _APPLIED or _proposes_classes(f))
        ]
        changed = _apply(found, fixable[0]) if fixable else None
        if changed is None:
            break
        found.inspected = changed
        found.applied.append(fixable[0])
    applied = [finding.kind for finding in found.applied]
    found.left = [finding for finding in report.findings if finding.kind not in applied]
    fatal = [finding for finding in found.left if finding.severity == "error" and finding.kind in _FATAL]
    if fatal:
        raise DataError("the masks cannot be trained on as they are\n\n" + text_of(fatal[0]))
    if of_folders and "colour-masks" in applied and not found.named:
        found.palette_of = published_palette(found.inspected[0][0].arguments.get("classes") or ())
        found.named = found.palette_of is not None
    if of_folders and not found.named:
        _name_classes(found)
    _require_classes(found)
    return found


def _proposes_classes(finding: Finding) -> bool:
    return finding.kind == "classes-unknown"


def _apply(found: Diagnosis, finding: Finding) -> list[tuple[Part, list[SampleInfo]]] | None:
    """Return the sets with the fix of a finding; None if it changes nothing, or changes which files are read."""
    lines = (yaml.safe_load(finding.fix) or {}).get("data") or {}
    changed = [(_with(part, lines.get(part.name) or {}), samples) for part, samples in found.inspected]
    before = [part.arguments for part, _ in found.inspected]
    same = all(len(part.pairs) == len(samples) and not part.problem for part, samples in changed)
    return changed if same and [part.arguments for part, _ in changed] != before else None


def _with(part: Part, changes: Mapping[str, Any]) -> Part:
    """Return a set with changed arguments."""
    arguments = {**part.arguments, **{key: value for key, value in changes.items() if key != "type"}}
    if "values" in changes:
        arguments.pop("offset", None)
    return open_part(part.name, part.key, {"type": part.type, **arguments}) if changes else part


# ---------------------------------------------------------------- classes


def _covered_pixels(classes: ClassList, counts: MaskCounts) -> int:
    """Return the number of pixels whose value or colour is in a class list."""
    values = classes.values or range(len(classes.names))
    known = sum(counts.values[value] for value in {*values, *classes.ignore})
    return known + sum(counts.colors[color] for color in set(classes.colors))


def _from_list(classes: ClassList, counts: MaskCounts) -> dict[str, Any]:
    """Return the arguments for these masks according to a class list."""
    names = list(classes.names)
    if counts.colors.total() > counts.values.total():
        covered = sum(counts.colors[color] for color in classes.colors) >= _SHARE * counts.colors.total()
        return {"classes": names, **({"palette": [list(color) for color in classes.colors]} if covered else {})}
    ignored = {"ignore": [*classes.ignore, IGNORE]} if classes.ignore else {}
    if classes.values and list(classes.values) != list(range(len(names))):
        return {"classes": names, "values": {value: place for place, value in enumerate(classes.values)}, **ignored}
    return {"classes": names, **ignored}


def _objects(counts: MaskCounts) -> dict[str, Any]:
    """Return the arguments for masks that number the objects of each image; empty for other masks.

    Values are object numbers if they run from 1 in almost every mask and most of them are in one piece.
    """
    masks = [mask for mask in counts.numbers if set(mask.values) - {0, IGNORE}]
    numbers = [sorted(set(mask.values) - {0, IGNORE}) for mask in masks]
    if not masks or len({len(found) for found in numbers}) < 3 or max(map(len, numbers)) < 4:
        return {}
    if sum(found == list(range(1, len(found) + 1)) for found in numbers) < 0.9 * len(numbers):
        return {}
    several = [mask for mask, found in zip(masks, numbers) if len(found) > 1]
    step = max(len(several) // _SAMPLED, 1)
    pieces = [whole for mask in several[::step][:_SAMPLED] for whole in _in_one_piece(mask)]
    if not pieces or sum(pieces) < 0.8 * len(pieces):
        return {}
    values = {value: int(value > 0) for value in sorted({0, *counts.values} - {IGNORE})}
    return {"classes": ["background", "object"], "values": values}


def _in_one_piece(mask: MaskInfo) -> list[bool]:
    """Return for each value of a mask whether most of its pixels are connected."""
    raw = image.read_mask(mask.path)
    raw = raw[..., 0] if raw.ndim == 3 else raw
    whole = []
    for value in set(mask.values) - {0, IGNORE}:
        stats = opencv().connectedComponentsWithStats((raw == value).astype("uint8"))[2][1:, 4]
        whole.append(bool(stats.max() >= _LARGEST * stats.sum()))
    return whole


def _name_classes(found: Diagnosis) -> None:
    """Name classes without names: value 0 or black is the background; a single other class gets its folder's name."""
    part = found.inspected[0][0]
    names = list(part.arguments.get("classes") or (part.labels.classes if part.labels else ()))
    if len(names) < 2 or not all(re.fullmatch(r"class_\d+|background|foreground|object", name) for name in names):
        return
    values = part.arguments.get("values")
    shift = int(part.arguments.get("offset") or 0)
    by_place = {place: place + shift for place in range(len(names))}
    if values:
        by_place = {place: value for value, place in sorted(values.items(), reverse=True)}
    named = [f"class_{by_place.get(place, place)}" for place in range(len(names))]
    if part.arguments.get("palette"):
        named = names  # the doctor's, by their colours
    elif by_place.get(0) == 0:
        named[0] = "background"
    if len(named) == 2:
        named[1] = _folder_class(part) or (names[1] if names[1] == "object" else "foreground")
    found.inspected = [(_with(one, {"classes": named}), samples) for one, samples in found.inspected]


def _folder_class(part: Part) -> str | None:
    """Return the name of the folder of masks if it can be a class name, such as ``crack``."""
    if part.arguments.get("masks") == part.arguments.get("images"):
        return None
    name = Path(str(part.arguments.get("masks", ""))).name
    rest = without_split(name)
    return rest if rest and rest == name.lower() and role_of(name) is None and rest.isalpha() else None


def _require_classes(found: Diagnosis) -> None:
    usable = [sample for _, samples in found.inspected for sample in samples if is_sound(sample)]
    if not usable:
        worst = "\n\n".join(map(text_of, found.left[:3]))
        raise DataError(f"no image can be read together with its mask\n\n{worst}")
    if not any(sample.mask for sample in usable):
        raise DataError("the data have no labels")
    for part, _ in found.inspected:
        if part.labels is None and found.left and len(_mask_values(found.inspected)) > 1:
            raise DataError("the meaning of the mask values is unclear\n\n" + "\n\n".join(map(text_of, found.left[:3])))
        if part.labels is None or len(part.labels.classes) < 2:
            raise DataError(
                "every pixel of the masks has the same class, so there is nothing to learn; "
                f"look at them: {_some_masks(found.inspected)}"
            )


def _mask_values(inspected: Sequence[tuple[Part, Sequence[SampleInfo]]]) -> set[Any]:
    """Return the values and colours of all masks except `IGNORE`."""
    masks = [sample.mask for _, samples in inspected for sample in samples if sample.mask]
    return {value for mask in masks for value in (*mask.values, *mask.colors)} - {IGNORE}


def _some_masks(inspected: Sequence[tuple[Part, Sequence[SampleInfo]]]) -> str:
    return ", ".join(s.mask.path for _, samples in inspected for s in samples[:3] if s.mask)
