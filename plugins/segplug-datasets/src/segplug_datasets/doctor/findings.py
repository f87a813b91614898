"""Findings of the doctor: severity, files, cause, and the config lines that fix it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from segplug_datasets.doctor.parts import Part
from segplug_datasets.doctor.trial import opens, teaches

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

SHOWN = 5
"""Files that a report names; JSON holds `KEPT`."""

KEPT = 1000

_NAMES = {"mask_suffix", "image_suffix"}
"""Arguments that do not change the meaning of values."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Args:
        severity: ``error``: training on it fails or learns nonsense. ``warning``: probably unintended. ``note``.
        kind: A short name that stays the same: ``black-and-white-masks``.
        where: The set or sets: ``train``.
        what: The problem, in one line.
        why: The consequence, and what to do.
        files: Those concerned.
        count: Number of findings, where that is not the number of `files`.
        fix: Config lines that fix it; empty where no config can.
    """

    severity: Severity
    kind: str
    where: str
    what: str
    why: str = ""
    files: Sequence[str] = field(default=())
    count: int = 0
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON would hold it."""
        count = self.count or len(self.files)
        return {**self.__dict__, "files": list(self.files[:KEPT]), "count": count}


def config_lines(parts: Sequence[Part], changes: Mapping[str, Any]) -> str:
    """Return the YAML that sets ``changes`` on the sets of a config; empty if it was tried and does not help.

    A set that is not a `FolderDataset` is written as one, since only that takes every argument.

    Args:
        parts: The sets to change.
        changes: Arguments of `FolderDataset`.
    """
    lines: list[str] = []
    merged: dict[str, Any] = {}
    specs = [_spec(part, changes) for part in parts]
    whole = [{"type": "FolderDataset", **part.folder_arguments(), **spec} for part, spec in zip(parts, specs)]
    if not opens(parts, whole) or not (set(changes) <= _NAMES or teaches(parts, whole)):
        return ""
    for part, spec in zip(parts, specs):
        if part.key.count(".") == 1 and "[" not in part.key:
            merged[part.key.partition(".")[2]] = spec
        else:
            lines.append(f"# in place of {part.key}\n{to_yaml(spec)}")
    return "\n".join([*([to_yaml({"data": merged})] if merged else []), *lines])


def _spec(part: Part, changes: Mapping[str, Any]) -> dict[str, Any]:
    if "values" in changes and part.folder_arguments().get("offset"):
        changes = {**changes, "offset": 0}  # a specification takes one of them
    if part.written and part.type == "FolderDataset":
        return dict(changes)
    return {"type": "FolderDataset", **part.folder_arguments(), **changes}


class _Lines(yaml.SafeDumper):
    """Blocks outside, lists and short mappings in one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_flat(dumper: yaml.SafeDumper, value: Any) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", list(value), flow_style=True)


def _represent_mapping(dumper: yaml.SafeDumper, value: dict[Any, Any]) -> yaml.Node:
    flat = bool(value) and all(isinstance(key, int) for key in value)
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=flat)


_Lines.add_representer(list, _represent_flat)
_Lines.add_representer(tuple, _represent_flat)
_Lines.add_representer(dict, _represent_mapping)


def to_yaml(value: Any) -> str:
    """Return YAML as a person would write it."""
    return yaml.dump(value, Dumper=_Lines, sort_keys=False, width=110, allow_unicode=True).rstrip()
