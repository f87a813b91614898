"""Label files: what their values mean, the classes and their colours.

labels = LabelSpec(("road", "car"), values={0: 0, 7: 1}, ignore=(255,))
ids = labels.encode(raw)                     # (H, W) uint8: 0, 1 or IGNORE
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.opencv import opencv

IGNORE = 255
"""The id of pixels that count neither in a loss nor in a metric, everywhere after a file was read."""

Color = tuple[int, int, int]

Task = Literal["multiclass", "binary", "multilabel"]
"""What a pixel is: one of the classes; the second of two classes or not; each class or not, so none or several."""


@dataclass(frozen=True)
class LabelSpec:
    """What the numbers in a label file mean: the one place that says so.

    Args:
        classes: Names; the position is the class id, 0 to 254 at most.
        palette: One RGB colour (0 to 255) per class; drawn from a fixed table when empty.
        ignore: Values of the file that become `IGNORE`.
        offset: Subtracted from the value to give the id; smaller values are ignored. 1 covers what other
            tools call ``reduce_zero_label``.
        values: File value to class id, for files whose ids are sparse or to be regrouped; replaces ``offset``, and
            what it names is not ignored: ``{0: 0, 255: 1}`` reads black and white masks.
        background: The class of all values that are neither a class nor ignored; without, they are refused.
        task: What a pixel is. ``multilabel`` has no class ids: its maps say yes (1) or no (0) for each class, and
            ``encode`` is for others.

    Raises:
        UsageError: When the parts contradict each other.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...] = ()
    ignore: tuple[int, ...] = (IGNORE,)
    offset: int = 0
    values: Mapping[int, int] | None = None
    background: str | None = None
    task: Task = "multiclass"
    _tables: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "ignore", tuple(self.ignore))
        palette = tuple(tuple(int(v) for v in color) for color in self.palette) or default_palette(len(self.classes))
        object.__setattr__(self, "palette", palette)
        if not 0 < len(self.classes) <= IGNORE:
            raise UsageError(f"a label specification needs 1 to {IGNORE} classes, got {len(self.classes)}")
        if len(palette) != len(self.classes):
            raise UsageError(f"{len(self.classes)} classes but {len(palette)} colours in the palette")
        strange = [color for color in palette if len(color) != 3 or not all(0 <= value <= 255 for value in color)]
        if strange:
            raise UsageError(f"a colour of the palette is three values from 0 to 255, not {strange[0]}")
        if self.values is not None and self.offset:
            raise UsageError("give 'values' or 'offset', not both")
        wrong = [v for v in (self.values or {}).values() if not (0 <= v < len(self.classes) or v == IGNORE)]
        if wrong:
            raise UsageError(f"'values' maps to class id {wrong[0]}, but there are {len(self.classes)} classes")
        if self.background is not None and self.background not in self.classes:
            raise UsageError(f"'background' is one of the classes, {self.background!r} is none")
        if self.task == "binary" and len(self.classes) != 2:
            raise UsageError(f"task binary needs 2 classes, not {len(self.classes)}: name two, or merge them into two")

    def encode(self, raw: np.ndarray, path: str | None = None) -> np.ndarray:
        """Turn file values (H, W), any integer type, into ids (H, W) uint8, 0 to ``len(classes) - 1`` or `IGNORE`.

        Values that are ids already come back in the same array, unless it is read-only.

        Raises:
            DataError: When a value is neither a class nor ignored; the message lists them.
        """
        if raw.ndim != 2:
            raise DataError(f"a label map has two axes, this one has shape {raw.shape}: is it a colour mask?", path)
        if raw.dtype == np.bool_:
            raw = raw.astype(np.uint8)
        if raw.dtype == np.uint8 and raw.size:
            return self._encode_bytes(raw, path)
        if raw.size and raw.min() < 0:
            raise DataError(f"negative label {int(raw.min())}", path)
        size = max(256, int(raw.max(initial=0)) + 1)
        encoded = self._table(size)[raw]
        if (encoded < 0).any():
            self._refuse(np.unique(raw[encoded < 0]), path)
        return encoded.astype(np.uint8)

    def _encode_bytes(self, raw: np.ndarray, path: str | None) -> np.ndarray:
        """Encode uint8 values: by a subtraction where that does, else by OpenCV, several times faster than numpy."""
        table = self._table(256)
        # 255 and a 0 that does not count wrap around, so that the largest number tells whether all are classes.
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
        """Whether ids are the values less the offset, and 255 for what does not count, as far as there are classes."""
        ids = (np.arange(256) - self.offset) % 256
        plain = (ids + 1) % 256 <= len(self.classes)
        return bool((self._table(256)[plain] == ids[plain]).all())

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Turn class ids into the values that a file of this kind has: the inverse of `encode`, `IGNORE` stays.

        Yes and no of a multi-label map stay what they are.
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
        raise DataError(
            f"{message}; add them to 'ignore' of the label specification, or name their classes, or a 'background'",
            path,
        )


def default_palette(count: int) -> tuple[Color, ...]:
    """Return ``count`` distinct RGB colours, the same ones every time (Pascal VOC's bits, without black)."""

    def color(index: int) -> Color:
        rgb = [0, 0, 0]
        for shift in range(8):
            for channel in range(3):
                rgb[channel] |= ((index >> channel) & 1) << (7 - shift)
            index >>= 3
        return rgb[0], rgb[1], rgb[2]

    return tuple(color(index + 1) for index in range(count))
