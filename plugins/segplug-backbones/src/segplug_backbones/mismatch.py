"""What differs between the tensors of a file and those of a model, and which names were probably changed.

mismatch = Mismatch.between(model.state_dict(), checkpoint.load("theirs.pth")["state_dict"])
print(mismatch.table())
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from segkernel.cli import table

Shape = tuple[int, ...]
_ALIKE = 0.4
"""Names below this similarity are not offered as renames."""


@dataclass(frozen=True)
class Mismatch:
    """Names and shapes that differ.

    Args:
        missing: Shapes of the model's tensors that the file does not have.
        unexpected: Shapes of the file's tensors that the model does not have.
        shapes: Shapes in the file and in the model, where they differ.
        total: Number of the model's tensors.
    """

    missing: Mapping[str, Shape]
    unexpected: Mapping[str, Shape]
    shapes: Mapping[str, tuple[Shape, Shape]]
    total: int

    @classmethod
    def between(cls, own: Mapping[str, Any], given: Mapping[str, Any]) -> Mismatch:
        """Compare the state dict of a model with the weights of a file."""
        mine, theirs = ({name: tuple(value.shape) for name, value in part.items()} for part in (own, given))
        return cls(
            {name: shape for name, shape in mine.items() if name not in theirs},
            {name: shape for name, shape in theirs.items() if name not in mine},
            {name: (theirs[name], shape) for name, shape in mine.items() if theirs.get(name, shape) != shape},
            len(mine),
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def renames(self) -> Counter[tuple[str, str]]:
        """Return probable renames, (part of the file's names, part of the model's), with the number of tensors.

        A missing name belongs to the most similar unexpected one of its shape and with its last part.
        """
        free: dict[tuple[Shape, str], list[str]] = defaultdict(list)
        for name, shape in self.unexpected.items():
            free[shape, name.rpartition(".")[2]].append(name)
        found: Counter[tuple[str, str]] = Counter()
        for name, shape in self.missing.items():
            candidates = free[shape, name.rpartition(".")[2]][:50]  # names of one layer are in the same order in both
            rated = [(SequenceMatcher(None, name, other, autojunk=False).ratio(), other) for other in candidates]
            if rated and (best := max(rated))[0] >= _ALIKE:
                free[shape, name.rpartition(".")[2]].remove(best[1])
                found[_changed(best[1], name)] += 1
        return found

    def table(self, limit: int = 12) -> str:
        """Return all differences, at most ``limit`` rows of each kind, and the probable renames."""
        kinds = {
            "missing": [(name, "-", str(shape)) for name, shape in self.missing.items()],
            "unexpected": [(name, str(shape), "-") for name, shape in self.unexpected.items()],
            "shape": [(name, str(old), str(new)) for name, (old, new) in self.shapes.items()],
        }
        rows = [("", "tensor", "in the file", "in the model")]
        for kind, entries in kinds.items():
            rows += [(kind, *entry) for entry in entries[:limit]]
            rows += [("", f"and {len(entries) - limit} more", "", "")] if len(entries) > limit else []
        counts = ", ".join(f"{len(entries)} {kind}" for kind, entries in kinds.items())
        lines = [table(rows), f"\n{self.total} tensors in the model: {counts}"]
        if renames := self.renames():
            lines += ["", "probably renamed, from the file to the model:"]
            lines += [
                f"    {old or '(nothing)'} -> {new or '(nothing)'}  ({n})"
                for (old, new), n in renames.most_common(limit)
            ]
        return "\n".join(lines)


def _changed(old: str, new: str) -> tuple[str, str]:
    """Return what is left of two names without the parts that they share at the end, and then at the start."""
    parts = [old.split("."), new.split(".")]
    while all(len(part) > 1 for part in parts) and parts[0][-1] == parts[1][-1]:
        for part in parts:
            part.pop()
    while all(len(part) > 1 for part in parts) and parts[0][0] == parts[1][0]:
        for part in parts:
            part.pop(0)
    return ".".join(parts[0]), ".".join(parts[1])
