"""Several data sets as one, with the same classes or mapped into a common label space."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from typing_extensions import Required

from segkernel.annotations import NonNegative
from segkernel.catalog import display
from segkernel.errors import UsageError
from segkernel.interfaces.data import Dataset
from segkernel.labels import IGNORE, Color, default_palette
from segkernel.sample import LabelMap, Sample
from segplug_datasets.class_index import ClassIndex, class_index
from segplug_datasets.files import FolderDataset
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.labelled import Labelled
from segplug_datasets.labels_hook import LabelsHook
from segplug_datasets.mapping import regrouped_palette, require_name


class ConcatDataset:
    """Concatenation of several data sets with the same classes.

    ``datasets`` are the sets, ``ends`` the index after the last sample of each.

    Args:
        datasets: The data sets; colours are the first one's.

    Raises:
        UsageError: When there is no data set, or the classes or their order differ.
    """

    run_hooks = (LabelsHook,)
    _repr_html_ = display

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write tiny data sets into ``folder`` and return the arguments that read them."""
        parts = [FolderDataset.conformance(folder / name)[0] for name in "ab"]
        return [{"datasets": [FolderDataset(**part) for part in parts]}]

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        if not datasets:
            raise UsageError(f"{type(self).__name__} needs at least one data set")
        self.datasets = list(datasets)
        for number, other in enumerate(self.datasets[1:], 1):
            _refuse_other_classes(self.classes, tuple(other.classes), number)
        self.ends = list(accumulate(len(dataset) for dataset in self.datasets))

    @property
    def labels(self) -> LabelSpec:
        """Meaning of the values in the first set's label files."""
        return LabelSpec.of_dataset(self.datasets[0])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.datasets[0].classes)

    @property
    def palette(self) -> tuple[Color, ...]:
        """One RGB colour per class."""
        return tuple(self.datasets[0].palette)

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        part = bisect_right(self.ends, index)
        return self.datasets[part][index - (self.ends[part - 1] if part else 0)]


class MappedDataset(Labelled):
    """A data set mapped into another label space: classes renamed, merged, left out.

    A class becomes the class given in ``mapping``; if it is not listed there, the class of the same name; if there is
    none, its pixels are ignored.

    Args:
        dataset: Any data set.
        classes: The classes of the other label space; the position is the class id.
        mapping: From the data set's class names to names in ``classes``, or None to ignore their pixels.
        palette: One RGB colour per class; taken from the data set where possible when not given.
        unlabelled: Classes that the images may show but that this data set did not label. They may be part of its
            background, so pixels of ``background`` are ignored.
        background: The background class among ``classes``; needed with ``unlabelled`` only.

    Raises:
        UsageError: When a name does not exist, or a class that is mapped to is listed as unlabelled.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        dataset = FolderDataset(**FolderDataset.conformance(folder)[0])
        mapped = {"dataset": dataset, "classes": ["background", "cat", "dog"], "mapping": {"foreground": "cat"}}
        return [mapped, mapped | {"unlabelled": ["dog"]}]

    def __init__(
        self,
        dataset: Dataset,
        classes: Sequence[str],
        mapping: Mapping[str, str | None] | None = None,
        palette: Sequence[Color] | None = None,
        unlabelled: Sequence[str] = (),
        background: str = "background",
    ) -> None:
        self.dataset = dataset
        if getattr(getattr(dataset, "labels", None), "task", "") == "multilabel":
            raise UsageError("labels of task multilabel cannot be mapped: select classes in the data set's 'masks'")
        ids = map_names(tuple(dataset.classes), classes, mapping or {})
        palette = palette or regrouped_palette(dataset.palette, ids, len(classes))
        self.labels = LabelSpec(tuple(classes), tuple(palette))
        self._table = np.full(256, IGNORE, np.uint8)
        self._table[: len(ids)] = ids
        if unlabelled:
            self._hide_background(unlabelled, background)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        seg = sample.get("seg")
        if isinstance(seg, LabelMap):
            sample["seg"] = replace(seg, array=self._table[seg.array])
        return sample

    def class_index(self, cache: str | Path | None = None, workers: int | None = None) -> ClassIndex:
        """Return which classes each sample holds; see `segplug_datasets.class_index`."""
        return class_index(self.dataset, cache, workers).mapped(self._table, len(self.classes))

    def _hide_background(self, unlabelled: Sequence[str], background: str) -> None:
        require_name(background, self.classes, "'background': ")
        for name in unlabelled:
            require_name(name, self.classes, "'unlabelled': ")
            if self.classes.index(name) in self._table:
                raise UsageError(f"{name!r} is listed as unlabelled, but a class of the data set is mapped to it")
        if background in unlabelled:
            raise UsageError(f"{background!r} is for unlabelled pixels and cannot be listed in 'unlabelled'")
        self._table[self._table == self.classes.index(background)] = IGNORE


class Source(TypedDict, total=False):
    """One of the data sets of `MixDataset`: ``dataset``, ``mapping`` and ``unlabelled`` as in `MappedDataset`.

    ``weight`` is the set's share of the draws, relative to the others'.
    """

    dataset: Required[Dataset]
    mapping: Mapping[str, str | None]
    unlabelled: Sequence[str]
    weight: NonNegative


class MixDataset(ConcatDataset):
    """Data sets of different classes, mapped into one label space, one set after the other::

        type: MixDataset
        classes: [background, person, car]
        sources:
          - {dataset: {...}, mapping: {pedestrian: person, rider: person}, weight: 2}
          - {dataset: {...}, unlabelled: [car]}

    ``weights`` has each set's share of the draws, or is None when no source gives one: then every sample is drawn
    equally often. Samplers read it, together with ``datasets`` and ``ends``.

    Args:
        sources: The data sets, each with a mapping of its classes to the common ones.
        classes: The common classes; the union of the sources' mapped classes when not given.
        palette: One RGB colour per class; taken from the first source with the class when not given.
        background: The background among the common classes; needed where sources have ``unlabelled``.

    Raises:
        UsageError: When there is no source, a name does not exist, or a weight is not positive.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write tiny data sets into ``folder`` and return the arguments that read them."""
        first, second = (FolderDataset(**FolderDataset.conformance(folder / name)[0]) for name in "ab")
        sources = [
            Source(dataset=first, mapping={"foreground": "cat"}, weight=2.0),
            Source(dataset=second, mapping={"foreground": "dog"}, unlabelled=["cat"]),
        ]
        return [{"sources": sources}]

    def __init__(
        self,
        sources: Sequence[Source],
        classes: Sequence[str] | None = None,
        palette: Sequence[Color] | None = None,
        background: str = "background",
    ) -> None:
        names = list(classes or _union(sources))
        colors = palette or _common_palette(sources, names)
        super().__init__([_mapped(source, number, names, colors, background) for number, source in enumerate(sources)])
        given = [source.get("weight") for source in sources]
        wrong = [weight for weight in given if weight is not None and not 0 < weight < float("inf")]
        if wrong:
            raise UsageError(f"the 'weight' of a source must be a positive number, not {wrong[0]}")
        unset = all(weight is None for weight in given)
        self.weights = None if unset else tuple(1.0 if weight is None else float(weight) for weight in given)


def map_names(names: Sequence[str], classes: Sequence[str], mapping: Mapping[str, str | None]) -> list[int]:
    """Return the id among ``classes`` of each of ``names``, or `IGNORE`.

    Raises:
        UsageError: When the mapping contains an unknown name.
    """
    for old, new in mapping.items():
        require_name(old, names, "'mapping' of a data set: ")
        if new is not None:
            require_name(new, classes, f"'mapping' of {old!r}: ")
    place = {name: number for number, name in enumerate(classes)}
    return [IGNORE if (new := mapping.get(name, name)) is None else place.get(new, IGNORE) for name in names]


def _mapped(source: Source, number: int, names: list[str], colors: Sequence[Color], background: str) -> MappedDataset:
    try:
        return MappedDataset(
            source["dataset"], names, source.get("mapping"), colors, source.get("unlabelled", ()), background
        )
    except UsageError as error:
        raise UsageError(f"sources[{number}]: {error}") from None


def _union(sources: Sequence[Source]) -> list[str]:
    """Return all names that the sources' classes are mapped to, in order of appearance."""
    mapped = [[s.get("mapping", {}).get(name, name) for name in s["dataset"].classes] for s in sources]
    return [name for name in dict.fromkeys(name for names in mapped for name in names) if name is not None]


def _common_palette(sources: Sequence[Source], names: Sequence[str]) -> list[Color]:
    """Return the colour of each class in the first source that has it, or from a fixed table."""
    colors = dict(zip(names, default_palette(len(names))))
    for source in reversed(sources):
        mapping, dataset = source.get("mapping", {}), source["dataset"]
        for old, color in reversed(list(zip(dataset.classes, dataset.palette))):
            new = mapping.get(old, old)
            if new in colors:
                colors[new] = color
    return list(colors.values())


def _refuse_other_classes(first: tuple[str, ...], other: tuple[str, ...], number: int) -> None:
    if first == other:
        return
    message = f"datasets[{number}] has {len(other)} classes, datasets[0] has {len(first)}"
    if len(first) == len(other):
        place = next(i for i, (a, b) in enumerate(zip(first, other)) if a != b)
        message = f"class {place} of datasets[{number}] is {other[place]!r}, in datasets[0] it is {first[place]!r}"
    raise UsageError(f"{message}: choose or order them with 'metainfo', or map them with MixDataset")
