"""Several data sets as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from segkernel.errors import UsageError
from segkernel.interfaces.data import Color, Dataset, LabelSpec
from segkernel.sample import Sample
from segplug_datasets.files import FolderDataset


class ConcatDataset:
    """The samples of several data sets of the same classes, one set after the other.

    Args:
        datasets: The data sets; colours are the first one's.

    Raises:
        UsageError: When there is none, or the classes, or their order, differ.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write tiny data sets into ``folder`` and return the arguments that read them."""
        parts = [FolderDataset.conformance(folder / name)[0] for name in "ab"]
        return [{"datasets": [FolderDataset(**part) for part in parts]}]

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        if not datasets:
            raise UsageError("ConcatDataset needs at least one data set")
        self.datasets = list(datasets)
        for number, other in enumerate(self.datasets[1:], 1):
            _refuse_other_classes(self.classes, tuple(other.classes), number)
        self._ends = list(accumulate(len(dataset) for dataset in self.datasets))

    @property
    def labels(self) -> LabelSpec:
        """What the first set's files hold."""
        first: Any = self.datasets[0]
        return getattr(first, "labels", None) or LabelSpec(tuple(first.classes), tuple(first.palette))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.datasets[0].classes)

    @property
    def palette(self) -> tuple[Color, ...]:
        """One RGB colour per class."""
        return tuple(self.datasets[0].palette)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        part = bisect_right(self._ends, index)
        return self.datasets[part][index - (self._ends[part - 1] if part else 0)]


def _refuse_other_classes(first: tuple[str, ...], other: tuple[str, ...], number: int) -> None:
    if first == other:
        return
    message = f"datasets[{number}] has {len(other)} classes, datasets[0] has {len(first)}"
    if len(first) == len(other):
        place = next(i for i, (a, b) in enumerate(zip(first, other)) if a != b)
        message = f"class {place} of datasets[{number}] is {other[place]!r}, of datasets[0] it is {first[place]!r}"
    raise UsageError(f"{message}: choose or order them with 'metainfo', or map the labels")
