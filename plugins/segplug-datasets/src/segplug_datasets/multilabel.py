"""Multilabel masks: a pixel has none, one or several classes; files with a bit per class, or a folder per class.

masks: {crack: masks/crack, rust: masks/rust}      0 no, 1 yes, 255 unknown
masks: masks                                       1 crack, 2 rust, 3 both
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.labels import IGNORE
from segkernel.sample import MultiLabelMap, Sample
from segplug_datasets.image import NOTHING
from segplug_datasets.label_reader import LabelArguments, label_reader, read_annotation
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.side_fields import FieldFiles, ReadLabels

_UNUSED = ("offset", "ignore_colors", "metainfo", "background")
_BITS = 16
"""Maximum number of classes in one file."""


def multilabel_spec(arguments: LabelArguments, masks: Any, usual: Sequence[str]) -> LabelSpec:
    """Return the labels of a multilabel set; if ``masks`` is a mapping, its keys are the classes.

    Args:
        arguments: Meaning of the values in label files.
        masks: A folder, or a mapping of class to folder.
        usual: The default of ``classes``.

    Raises:
        UsageError: When the arguments contradict each other.
    """
    given = [name for name in _UNUSED if arguments.get(name)]
    if given:
        raise UsageError(f"{', '.join(given)}: not supported for task multilabel, whose masks are binary per class")
    classes = tuple(arguments.get("classes", ()))
    if isinstance(masks, Mapping):
        classes = tuple(masks) if classes == tuple(usual) else classes
        if set(classes) != set(masks):
            raise UsageError(f"'masks' has folders of {', '.join(masks)}; the classes are {', '.join(classes)}")
        strange = next((name for name, folder in masks.items() if not isinstance(folder, str | Path)), None)
        if strange is not None:
            raise UsageError(f"'masks' needs a folder for each class; that of {strange!r} is {masks[strange]}")
    elif arguments.get("values"):
        raise UsageError("values: not for masks with a bit for each class; give a folder for each class in 'masks'")
    elif len(classes) > _BITS:
        raise UsageError(f"{len(classes)} classes exceed the {_BITS} bits of a mask: give each its own folder")
    palette = tuple(arguments.get("palette") or ())
    return LabelSpec(classes, palette, tuple(arguments.get("ignore", (IGNORE,))), task="multilabel")


class ClassFiles:
    """The field ``seg`` of each sample, from a folder of masks for each class.

    Args:
        labels: Classes of the set.
        folders: Folder of masks by class.
        suffix: Suffix of the mask file names.
        names: Sample names.
        values: File value to 0 (absent) or 1 (present), for files with other values.

    Raises:
        DataError: When a folder, or a file, is missing.
    """

    def __init__(
        self,
        labels: LabelSpec,
        folders: Mapping[str, Path],
        suffix: str,
        names: Sequence[str],
        values: Mapping[int, int] | None = None,
    ) -> None:
        read = ReadLabels(label_reader({"classes": ("no", "yes"), "ignore": labels.ignore, "values": values}))
        self._files = [FieldFiles(name, folders[name], suffix, names, read) for name in labels.classes]

    def add(self, sample: Sample, index: int) -> None:
        """Read the field of sample ``index``."""
        planes = [files.read(sample, files.paths[index]).array for files in self._files]
        sample["seg"] = MultiLabelMap(np.stack(planes, 2))


class ReadBits:
    """Reads masks in which bit k, of value 2 ** k, is class k.

    Ignored values with other bits become unknown in all classes.
    """

    def __init__(self, labels: LabelSpec) -> None:
        self.labels = labels

    def __call__(self, sample: Sample, path: str) -> MultiLabelMap:
        raw = read_annotation(sample, path)
        if raw.ndim != 2:
            raise DataError(f"a mask with a bit for each class has two axes, this one has shape {raw.shape}", path)
        count = len(self.labels.classes)
        other = (raw < 0) | (raw >= 1 << count)
        unknown = other & np.isin(raw, (*self.labels.ignore, NOTHING))
        if (other & ~unknown).any():
            shown = ", ".join(map(str, np.unique(raw[other & ~unknown])[:8]))
            message = f"values {shown} have bits beyond those of the {count} classes (0 to {(1 << count) - 1})"
            raise DataError(f"{message}: add classes, or list the values in 'ignore'", path)
        planes = (raw.astype(np.int64)[..., None] >> np.arange(count)) & 1
        return MultiLabelMap(np.where(unknown[..., None], IGNORE, planes).astype(np.uint8))
