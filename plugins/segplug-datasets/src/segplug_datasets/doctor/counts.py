"""Value counts of masks, over the sets that share a label specification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from segkernel.labels import IGNORE, Color
from segplug_datasets.doctor.parts import Part
from segplug_datasets.doctor.sample_info import MaskInfo, SampleInfo
from segplug_datasets.image import NOTHING
from segplug_datasets.label_spec import LabelSpec

Inspected = Sequence[tuple[Part, Sequence[SampleInfo]]]
"""Sets with the properties of their samples, in order."""


@dataclass
class MaskCounts:
    """Value counts of the masks of some sets.

    Args:
        parts: The sets.
        masks: All readable masks.
        labels: Meaning of the values; None when unknown.
        values: Pixels of each value.
        colors: Pixels of each colour.
        known: Value to class id, or to `IGNORE`.
    """

    parts: list[Part]
    masks: list[MaskInfo]
    labels: LabelSpec | None
    values: Counter[int] = field(default_factory=Counter)
    colors: Counter[Color] = field(default_factory=Counter)
    known: Mapping[int, int] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The names of the sets."""
        return ", ".join(part.name for part in self.parts)

    @property
    def unknown(self) -> list[int]:
        """Values that are neither a class nor ignored."""
        return sorted(value for value in self.values if value not in self.known)

    @property
    def numbers(self) -> list[MaskInfo]:
        """The masks with numbers, not colours."""
        return [mask for mask in self.masks if mask.values and not mask.classes]

    def files_with(self, values: Iterable[int]) -> list[str]:
        """Return the masks that contain one of these values."""
        wanted = set(values)
        return [mask.path for mask in self.numbers if not wanted.isdisjoint(mask.values)]


def count_masks(inspected: Inspected) -> Iterator[MaskCounts]:
    """Yield the counts for each label specification among the sets."""
    groups: list[MaskCounts] = []
    for part, samples in inspected:
        group = next((g for g in groups if g.labels == part.labels and g.parts[0].colors == part.colors), None)
        if group is None:
            group = MaskCounts([], [], part.labels, known=meaning(part.labels))
            groups.append(group)
        group.parts.append(part)
        group.masks += [sample.mask for sample in samples if sample.mask is not None and not sample.mask.error]
    for group in groups:
        for mask in group.masks:
            if not mask.classes:
                group.values.update(mask.values)
                group.known = {**dict.fromkeys(without_data(mask), IGNORE), **group.known}
            group.colors.update(mask.colors)
        if group.labels is not None and group.labels.background is not None:
            background = group.labels.classes.index(group.labels.background)
            group.known = {**dict.fromkeys(group.values, background), **group.known}
    yield from groups


def meaning(labels: LabelSpec | None) -> dict[int, int]:
    """Return file value to class id, or to `IGNORE`, as `LabelSpec.encode` reads them."""
    if labels is None:
        return {IGNORE: IGNORE}
    known = dict.fromkeys(labels.ignore, IGNORE)
    if labels.values is not None:
        return known | {int(value): int(class_id) for value, class_id in labels.values.items()}
    known |= dict.fromkeys(range(labels.offset), IGNORE)
    return {place + labels.offset: place for place in range(len(labels.classes))} | known


def without_data(mask: MaskInfo) -> set[int]:
    """Return a mask's no-data values."""
    declared = mask.header.no_data
    return {NOTHING} if declared is None or declared != declared // 1 else {NOTHING, int(declared)}


def pixels_per_class(mask: MaskInfo, part: Part) -> Counter[int]:
    """Return the pixels of each class id, and of `IGNORE`; unknown values are left out."""
    found: Counter[int] = Counter()
    known = None if mask.classes else {**dict.fromkeys(without_data(mask), IGNORE), **meaning(part.labels)}
    named = part.labels.background if part.labels else None
    others = None if named is None or part.labels is None else part.labels.classes.index(named)
    for value, count in mask.values.items():
        class_id = value if known is None else known.get(value, others)
        if class_id is not None:
            found[class_id] += count
    for color, count in mask.colors.items():
        if color in part.colors:
            found[part.colors[color]] += count
    return found
