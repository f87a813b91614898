"""Runs all checks on all sets, and reports their findings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkernel.cli import table
from segkernel.files import replacing
from segkernel.labels import IGNORE
from segplug_datasets.doctor.classes import check_classes, occurring
from segplug_datasets.doctor.colors import check_colors
from segplug_datasets.doctor.copies import check_copies
from segplug_datasets.doctor.counts import Inspected, count_masks
from segplug_datasets.doctor.findings import SEVERITIES, SHOWN, Finding
from segplug_datasets.doctor.image_files import check_image_files, is_sound
from segplug_datasets.doctor.pairing import check_pairing
from segplug_datasets.doctor.parts import Part
from segplug_datasets.doctor.sample_info import SampleInfo
from segplug_datasets.doctor.sources import check_sources
from segplug_datasets.doctor.values import check_values


@dataclass(frozen=True)
class Row:
    """One set in the summary."""

    set: str
    images: int
    masks: int
    sound: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    classes: int
    occurring: int


@dataclass(frozen=True)
class Report:
    """All findings, the worst first, and a row for each set."""

    findings: list[Finding]
    rows: list[Row]

    @property
    def failed(self) -> bool:
        """Whether there is an error among the findings."""
        return any(finding.severity == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {"sets": [row.__dict__ for row in self.rows], "findings": [f.as_dict() for f in self.findings]}

    def text(self) -> str:
        """Return the report as text."""
        return "\n\n".join([*map(text_of, self.findings), self._summary()])

    def _summary(self) -> str:
        rows = [("set", "images", "masks", "sound", "sizes", "classes", *(f"{s}s" for s in SEVERITIES))]
        for row in self.rows:
            counts = (sum(self._concerns(f, row) and f.severity == s for f in self.findings) for s in SEVERITIES)
            sizes = _by(row.smallest) if row.smallest == row.largest else f"{_by(row.smallest)} to {_by(row.largest)}"
            classes = f"{row.occurring} of {row.classes}" if row.classes else "?"
            rows.append((row.set, str(row.images), str(row.masks), str(row.sound), sizes, classes, *map(str, counts)))
        return table(rows)

    @staticmethod
    def _concerns(finding: Finding, row: Row) -> bool:
        return row.set in finding.where.split(", ") or row.set.partition("[")[0] in finding.where.split(", ")


def check(inspected: Inspected) -> Report:
    """Return all findings on the inspected sets."""
    findings = sorted(_findings(inspected), key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(findings, [_row(part, samples) for part, samples in inspected])


def _findings(inspected: Inspected) -> Iterator[Finding]:
    for part, samples in inspected:
        yield from check_pairing(part)
        yield from check_image_files(part, samples)
    meant = True
    for counts in count_masks(inspected):
        found = [*check_values(counts), *check_colors(counts)]
        yield from found
        meant = meant and not any(finding.severity == "error" for finding in found)
    if meant:  # class statistics of misread values would be misleading
        yield from check_classes(inspected)
    yield from check_sources([part for part, _ in inspected])
    yield from check_copies(inspected)


def _row(part: Part, samples: Sequence[SampleInfo]) -> Row:
    sizes = [sample.image.size for sample in samples if min(sample.image.size) > 0] or [(0, 0)]
    found, _, masks = occurring(part, samples)
    return Row(
        part.name,
        len(samples) + len(part.unpaired_images),
        masks,
        sum(map(is_sound, samples)),
        min(sizes, key=lambda size: size[0] * size[1]),
        max(sizes, key=lambda size: size[0] * size[1]),
        len(part.labels.classes) if part.labels else 0,
        len(set(found) - {IGNORE}),
    )


def write_splits(inspected: Inspected, path: Path) -> list[Path]:
    """Write the names of the valid samples, for ``split`` of a data set: one file, or one for each set."""
    written = []
    for part, samples in inspected:
        file = path if len(inspected) == 1 else path.with_name(f"{path.stem}_{part.name}{path.suffix}")
        names = "".join(f"{sample.name}\n" for sample in samples if is_sound(sample) and min(sample.image.size) > 1)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(names, encoding="utf-8")
        written.append(file)
    return written


def text_of(finding: Finding) -> str:
    """Return a finding as text, with the lines that fix it."""
    lines = [f"{finding.severity.upper()}  {finding.where}: {finding.what}  [{finding.kind}]"]
    count = finding.count or len(finding.files)
    if finding.files:
        more = f" and {count - SHOWN} more" if count > SHOWN else ""
        lines.append(f"    {', '.join(finding.files[:SHOWN])}{more}")
    if finding.why:
        lines += [f"    {line}" for line in _wrapped(finding.why if finding.fix else _without_lines(finding.why))]
    lines += [f"        {line}" for line in finding.fix.splitlines()]
    return "\n".join(lines)


def _without_lines(why: str) -> str:
    """Return an explanation without the sentences about config lines, for a finding without a fix."""
    return " ".join(part for part in re.split(r"(?<=[.?!]) ", why) if "these lines" not in part.lower())


def _wrapped(text: str, width: int = 112) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return lines


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
