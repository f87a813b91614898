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
"""Files listed in a text report; JSON lists up to `KEPT`."""

KEPT = 1000

_NAMES = {"mask_suffix", "image_suffix"}
"""Arguments that do not change the meaning of values."""


@dataclass(frozen=True)
class Finding:
    """A problem, or a remark.

    Args:
        severity: ``error``: training fails or learns the wrong labels; ``warning``: probably unintended; ``note``.
        kind: Short, constant identifier: ``black-and-white-masks``.
        where: The set or sets: ``train``.
        what: The problem, in one line.
        why: The consequence, and what to do.
        files: Files concerned.
        count: Number of occurrences, if it is not the number of `files`.
        fix: Config lines that fix it; empty if no config can.
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
        """Return the finding for JSON."""
        count = self.count or len(self.files)
        return {**self.__dict__, "files": list(self.files[:KEPT]), "count": count}


def config_lines(parts: Sequence[Part], changes: Mapping[str, Any]) -> str:
    """Return YAML that applies ``changes`` to the sets of a config; empty if a trial shows that it does not help.

    Other sets are written as `FolderDataset`, which has all of the arguments.

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
    """Block style, with lists and mappings of integers in flow style."""

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
    """Return compact YAML."""
    return yaml.dump(value, Dumper=_Lines, sort_keys=False, width=110, allow_unicode=True).rstrip()
