"""Conversion of label files to class ids: values by a label specification, colours by a lookup table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypedDict

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.image import opencv, read_bytes
from segkernel.labels import IGNORE, Color, Task
from segkernel.sample import Sample
from segplug_datasets import image
from segplug_datasets.containers import no_data
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.left_out import warn_once
from segplug_datasets.mapping import Metainfo, choose

_DARKEST_COLOR = 64  # in common palettes


class LabelArguments(TypedDict, total=False):
    """Meaning of the values of label files; see `FolderDataset`."""

    classes: Sequence[str]
    palette: Sequence[Color] | None
    ignore: Sequence[int]
    offset: int
    values: Mapping[int, int] | None
    ignore_colors: Sequence[Color]
    metainfo: Metainfo | None
    background: str | None
    task: Task | None


class LabelReader:
    """Reads label files.

    Args:
        labels: Meaning of the values in the files.
        colors: RGB to class id, for files in colour.
    """

    def __init__(self, labels: LabelSpec, colors: Mapping[Color, int] | None = None) -> None:
        self.labels = labels
        self.colors = dict(colors or {})
        self._with_no_data: dict[float, LabelSpec] = {}

    def read(self, sample: Sample, path: str) -> np.ndarray:
        """Return class ids (H, W) uint8 of the label file of a sample.

        Raises:
            DataError: When it cannot be read, has another size, or contains an unknown value; the message names both
                files.
        """
        data = read_bytes(path)
        raw = image.whole_numbers(image.decode_numbers(data, path), path)
        require_size(sample, raw, path)
        return self.encode(raw, no_data(data), path, sample.meta["path"])

    def encode(self, raw: np.ndarray, nothing: float | None, path: str, image_path: str) -> np.ndarray:
        """Return class ids (H, W) uint8 of the values of a label file, (H, W) or (H, W, 3) RGB.

        Args:
            raw: Values of the file.
            nothing: The no-data value that the file declares; ignored unless it belongs to a class.
            path: The label file.
            image_path: The image of the label file, for messages.

        Raises:
            DataError: When a value, or a colour, is unknown.
        """
        labels = self._ignoring(nothing)
        if labels is not self.labels and (raw == nothing).any():
            self._say(f"{nothing:g}, the file's no-data value", path)
        if raw.dtype == np.int64 and (raw == image.NOTHING).any():
            self._say("NaN or out-of-range values", path)
        try:
            return labels.encode(raw) if raw.ndim == 2 else self._from_colors(raw)
        except DataError as error:
            raise DataError(f"{error}\n    the mask of {image_path}", path) from None

    def _say(self, what: str, path: str) -> None:
        warn_once(f"{what} {self.labels.classes}", f"{path}: {what}, is ignored, here and in similar files")

    def _ignoring(self, nothing: float | None) -> LabelSpec:
        if nothing is None or np.isnan(nothing):
            return self.labels
        if nothing not in self._with_no_data:
            self._with_no_data[nothing] = self.labels.ignoring(nothing)
        return self._with_no_data[nothing]

    def _from_colors(self, raw: np.ndarray) -> np.ndarray:
        if not self.colors:
            if (raw == raw[..., :1]).all():  # a grey image saved in colour
                return self.labels.encode(raw[..., 0])
            numbers = ids_in_one_channel(raw)
            if numbers is not None:
                return self.labels.encode(numbers)
            raise DataError("the mask has colours: give the colour of each class in 'palette', or save class ids")
        if raw.dtype != np.uint8:
            raise DataError(f"a colour mask must have 8 bits per channel, this one is {raw.dtype}")
        codes = _codes(raw)
        ids = _table(tuple(self.colors.items()))[codes]
        background = self.labels.background
        if background is not None:
            ids = np.where(ids < 0, self.labels.classes.index(background), ids)
        if (ids < 0).any():
            unknown = np.unique(codes[ids < 0])[:5].tolist()
            shown = ", ".join(str((v >> 16, v >> 8 & 255, v & 255)) for v in unknown)
            hint = "list colours to ignore in 'ignore_colors', or set 'background'"
            raise DataError(f"colours {shown} are not in the palette; {hint}")
        return ids.astype(np.uint8)


def ids_in_one_channel(raw: np.ndarray) -> np.ndarray | None:
    """Return the ids (H, W) of a mask (H, W, 3) that uses a single channel, as simulators write them.

    None for other masks, and for colours, which have values from 64 on in 8-bit files.
    """
    used = [channel for channel in range(raw.shape[2]) if raw[..., channel].any()]
    if len(used) != 1:
        return None
    numbers = raw[..., used[0]]
    few = numbers[numbers != IGNORE]
    return numbers if few.any() and (raw.dtype != np.uint8 or few.max() < _DARKEST_COLOR) else None


def label_reader(arguments: LabelArguments) -> LabelReader:
    """Return a reader for the label files that the arguments describe.

    Raises:
        UsageError: When the arguments contradict each other.
    """
    palette, ignored = arguments.get("palette") or (), arguments.get("ignore_colors", ())
    colors = {_color(color): i for i, color in enumerate(palette)}
    if len(colors) < len(palette):
        raise UsageError("two classes have the same colour in 'palette'")
    labels = LabelSpec(
        tuple(arguments.get("classes", ("background", "foreground"))),
        tuple(palette),
        tuple(arguments.get("ignore", (IGNORE,))),
        arguments.get("offset", 0),
        arguments.get("values"),
        arguments.get("background"),
    )
    labels, ids = choose(labels, arguments.get("metainfo") or {})
    labels = replace(labels, task=arguments.get("task") or "multiclass")
    known = {color: ids[class_id] for color, class_id in colors.items()}
    return LabelReader(labels, {**known, **{_color(color): IGNORE for color in ignored}})


def read_annotation(sample: Sample, path: str) -> np.ndarray:
    """Return the raw values of a sample's annotation file.

    Raises:
        DataError: When its size is not the image's, or it cannot be read.
    """
    raw = image.read_mask(path)
    require_size(sample, raw, path)
    return raw


def require_size(sample: Sample, array: np.ndarray, path: str) -> None:
    """Check that the array of a file has the height and width of the sample's image; `DataError` otherwise."""
    if array.shape[:2] != sample.size:
        there, here = _by(array.shape), _by(sample.size)
        raise DataError(f"a mask of {there} for an image of {here} pixels: {sample.meta['path']}", path)


def _codes(raw: np.ndarray) -> np.ndarray:
    """Return RGB (H, W, 3) uint8 as numbers (H, W) int32, red in the highest byte."""
    cv2 = opencv()
    codes = cv2.cvtColor(raw, cv2.COLOR_RGB2BGRA).view("<i4")[..., 0]  # one pass; shifting each channel takes six
    return codes & 0xFFFFFF


@lru_cache(maxsize=4)
def _table(colors: tuple[tuple[Color, int], ...]) -> np.ndarray:
    """Return the class id of every colour, -1 for unknown ones: 32 MB, so data sets share it."""
    table = np.full(1 << 24, -1, np.int16)
    for (red, green, blue), class_id in colors:
        table[red << 16 | green << 8 | blue] = class_id
    return table


def _color(color: Sequence[int]) -> Color:
    red, green, blue = (int(value) for value in color)
    return red, green, blue


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]}"
