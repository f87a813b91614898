"""Meaning of the values of label files.

labels = LabelSpec(("road", "car"), values={0: 0, 7: 1}, ignore=(255,))
ids = labels.encode(raw)                     # (H, W) uint8: 0, 1 or IGNORE
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.image import opencv
from segkernel.interfaces.data import Dataset
from segkernel.labels import IGNORE, Labels
from segplug_datasets.image import NOTHING, whole_numbers

_MOST_VALUES = 1 << 16  # of a table; enough for 8 and 16 bits


@dataclass(frozen=True)
class LabelSpec(Labels):
    """Meaning of the numbers in label files; all code that interprets them uses this class.

    Args:
        ignore: File values that become `IGNORE`.
        offset: Subtracted from the value to give the id; smaller values are ignored. 1 is MMSegmentation's
            ``reduce_zero_label``.
        values: File value to class id, for sparse or regrouped ids; replaces ``offset``, and its keys are not
            ignored: ``{0: 0, 255: 1}`` reads black and white masks.
        background: The class of all values that are neither a class nor ignored; they are errors when None.

    Task ``multilabel`` has binary masks instead of class ids; ``encode`` does not apply.

    Raises:
        UsageError: When the parts contradict each other.
    """

    ignore: tuple[int, ...] = (IGNORE,)
    offset: int = 0
    values: Mapping[int, int] | None = None
    background: str | None = None
    _tables: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ignore", tuple(self.ignore))
        if self.values is not None and self.offset:
            raise UsageError("give 'values' or 'offset', not both")
        wrong = [v for v in (self.values or {}).values() if not (0 <= v < len(self.classes) or v == IGNORE)]
        if wrong:
            raise UsageError(f"'values' maps to class id {wrong[0]}, but there are {len(self.classes)} classes")
        if self.background is not None and self.background not in self.classes:
            raise UsageError(f"'background' must be one of the classes, {self.background!r} is not")

    @classmethod
    def of(cls, labels: Labels) -> LabelSpec:
        """Return ``labels`` as a `LabelSpec`; files of plain `Labels` contain the class ids."""
        return labels if isinstance(labels, cls) else cls(labels.classes, labels.palette, task=labels.task)

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> LabelSpec:
        """Return the label specification of a data set: its ``labels``, or its class ids."""
        known = getattr(dataset, "labels", None)
        return cls.of(known or Labels(tuple(dataset.classes), tuple(dataset.palette)))

    def encode(self, raw: np.ndarray, path: str | None = None) -> np.ndarray:
        """Turn file values (H, W) of any numeric type into ids (H, W) uint8, below ``len(classes)`` or `IGNORE`.

        Values that already are ids are returned in the same array, unless it is read-only. NaN and
        `segplug_datasets.image.NOTHING` are ignored.

        Raises:
            DataError: When a value is neither a class nor ignored; the message lists them.
        """
        if raw.ndim != 2:
            raise DataError(f"a label map has two axes, this one has shape {raw.shape}: is it a colour mask?", path)
        if raw.dtype == np.bool_:
            raw = raw.astype(np.uint8)
        if raw.dtype == np.uint8 and raw.size:
            return self._encode_bytes(raw, path)
        raw = whole_numbers(raw, path or "a label map")
        if raw.size and (raw.min() < 0 or raw.max() >= _MOST_VALUES):
            values, places = np.unique(raw, return_inverse=True)
            encoded = self._encode_few(values)[places.reshape(raw.shape)]
        else:
            encoded = self._table(_MOST_VALUES)[raw]
        if (encoded < 0).any():
            self._refuse(np.unique(raw[encoded < 0]), path)
        return encoded.astype(np.uint8)

    def ignoring(self, value: float | None) -> LabelSpec:
        """Return labels that also ignore ``value``, unless it belongs to a class or is ignored already."""
        if value is None or value in dict(self._pairs()) or value != np.floor(value):
            return self
        return replace(self, ignore=(*self.ignore, int(value)))

    def _encode_few(self, values: np.ndarray) -> np.ndarray:
        """Return the ids of some values, -1 for unknown ones; for values too large for a table."""
        known = {NOTHING: IGNORE} | {int(value): class_id for value, class_id in self._pairs()}
        others = -1 if self.background is None else self.classes.index(self.background)
        return np.array([known.get(value, others) for value in values.tolist()], np.int16)

    def _encode_bytes(self, raw: np.ndarray, path: str | None) -> np.ndarray:
        """Encode uint8 values: by subtraction if that suffices, else by OpenCV, several times faster than numpy."""
        table = self._table(256)
        # 255 and an ignored 0 wrap around, so that the maximum shows whether all are classes.
        shifted = raw - np.uint8(self.offset) if 0 < self.offset <= IGNORE else raw
        if self._is_shift and (shifted + np.uint8(1)).max() <= len(self.classes):
            return shifted if shifted.flags.writeable else shifted.copy()
        encoded = np.asarray(opencv().LUT(raw, np.where(table < 0, IGNORE - 1, table).astype(np.uint8)))
        if (encoded + np.uint8(1)).max() == IGNORE:
            unknown = np.unique(raw[table[raw] < 0])
            if unknown.size:
                self._refuse(unknown, path)
        return encoded

    @cached_property
    def _is_shift(self) -> bool:
        """Whether the ids of all classes are the values minus the offset, and ignored values are 255."""
        ids = (np.arange(256) - self.offset) % 256
        plain = (ids + 1) % 256 <= len(self.classes)
        return bool((self._table(256)[plain] == ids[plain]).all())

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Turn class ids into file values: the inverse of `encode`, except that `IGNORE` stays.

        Binary masks of task ``multilabel`` are unchanged.
        """
        if self.task == "multilabel":
            return ids
        values = {class_id: value for value, class_id in self._pairs() if class_id != IGNORE}
        table = np.full(256, IGNORE, np.int64)
        table[list(values)] = list(values.values())
        decoded = table[ids]
        return decoded.astype(np.uint8 if table.max() <= IGNORE else np.uint16)

    def _table(self, size: int) -> np.ndarray:
        if size not in self._tables:
            others = -1 if self.background is None else self.classes.index(self.background)
            table = np.full(size, others, np.int16)
            for value, class_id in self._pairs():
                if 0 <= value < size:
                    table[value] = class_id
            self._tables[size] = table
        return self._tables[size]

    def _pairs(self) -> list[tuple[int, int]]:
        if self.values is not None:
            pairs = list(self.values.items())
        else:
            pairs = [(i + self.offset, i) for i in range(len(self.classes))]
            pairs += [(value, IGNORE) for value in range(self.offset)]
        return pairs + [(value, IGNORE) for value in self.ignore if value not in (self.values or ())]

    def _refuse(self, values: np.ndarray, path: str | None) -> None:
        shown = ", ".join(str(v) for v in values[:8]) + (" ..." if len(values) > 8 else "")
        highest = len(self.classes) - 1 + self.offset
        message = f"label values {shown} are outside the {len(self.classes)} classes"
        if self.values is None:
            message += f" ({self.offset} to {highest})"
        hint = "add their classes, or a 'background', or list them in 'ignore'"
        if self.values is None and not self.offset and values.tolist() == [highest + 1]:
            hint = "set offset: 1 if the first class is 1, or add a class"
        raise DataError(f"{message}; {hint}. seg-kernel data check lists the values in the files", path)
