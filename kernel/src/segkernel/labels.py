"""Classes, their colours, and the id of ignored pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from segkernel.errors import UsageError

IGNORE = 255
"""The id of pixels that neither losses nor metrics count; files may use others, which are mapped when read."""

Color = tuple[int, int, int]

Task = Literal["multiclass", "binary", "multilabel"]
"""What a pixel belongs to: one of the classes; the second of two classes, or not; any number of classes."""


@dataclass(frozen=True)
class Labels:
    """The classes of a data set or model. The values in label files are described by segplug-datasets' `LabelSpec`.

    Args:
        classes: Names; the position is the class id, 0 to 254 at most.
        palette: One RGB colour (0 to 255) per class; drawn from a fixed table when empty.
        task: What a pixel belongs to.

    Raises:
        UsageError: When the arguments contradict each other.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...] = ()
    task: Task = field(default="multiclass", kw_only=True)

    def __post_init__(self) -> None:
        try:
            colors = tuple(tuple(int(value) for value in color) for color in self.palette)
        except (TypeError, ValueError):
            raise UsageError(f"a palette is one (red, green, blue) per class, not {self.palette!r:.80}") from None
        if isinstance(self.classes, str) or not all(isinstance(name, str) for name in self.classes):
            raise UsageError(f"classes are a list of names, not {self.classes!r:.80}")
        palette = colors or default_palette(len(self.classes))
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "palette", palette)
        if not 0 < len(self.classes) <= IGNORE:
            raise UsageError(f"a label specification needs 1 to {IGNORE} classes, got {len(self.classes)}")
        if len(palette) != len(self.classes):
            raise UsageError(f"{len(self.classes)} classes but {len(palette)} colours in the palette")
        strange = [color for color in palette if len(color) != 3 or not all(0 <= value <= 255 for value in color)]
        if strange:
            raise UsageError(f"a colour of the palette is three values from 0 to 255, not {strange[0]}")
        if self.task == "binary" and len(self.classes) != 2:
            raise UsageError(f"task binary needs 2 classes, not {len(self.classes)}: name two, or merge them into two")


def default_palette(count: int) -> tuple[Color, ...]:
    """Return the first ``count`` RGB colours of Pascal VOC's palette, without black."""

    def level(index: int, channel: int) -> int:
        return sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))

    return tuple((level(index, 0), level(index, 1), level(index, 2)) for index in range(1, count + 1))
