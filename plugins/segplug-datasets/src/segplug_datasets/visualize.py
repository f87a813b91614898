"""Overlays of predictions: classes in colour over the image, the ground truth to the left, a legend below.

overlay = draw("street.jpg", prediction, classes=["road", "car"], out_file="overlay.png")
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import UsageError
from segkernel.image import opencv
from segkernel.labels import IGNORE, Color, default_palette
from segkernel.sample import Prediction
from segplug_datasets.image import as_rgb, overlay, read, write

_LINE_HEIGHT = 22  # pixels
_FONT = (0, 0.45)  # OpenCV's FONT_HERSHEY_SIMPLEX, and its size
_BORDER = (90, 90, 90)  # of a legend's squares, so that light colours are seen on white
BACKGROUND = ("background", "_background_", "__background__")
"""Names of a class that is not painted: its pixels are all that is left."""


def draw(
    image: np.ndarray | str | Path,
    prediction: Any,
    truth: Any = None,
    classes: Sequence[str] | None = None,
    palette: Sequence[Color] | None = None,
    opacity: float = 0.5,
    title: str | None = None,
    out_file: str | Path | None = None,
    show: bool = False,
    wait_time: float = 0,
    output: Any = None,
) -> np.ndarray:
    """Return an overlay of a prediction on its image, as (H', W', 3) uint8 RGB; a background class is not painted.

    Args:
        image: (H, W, C) with any number of bands and depth, or a path.
        prediction: A `Prediction`, or an array or tensor for `segplug_datasets.image.overlay`: class ids (H, W), binary
            masks (K, H, W), floats (H, W); None draws the truth alone.
        truth: The ground truth, as ``prediction`` or as `Targets`; drawn to the left of the prediction.
        classes: Names for the legend, which lists the classes that occur.
        palette: RGB per class; a fixed table of colours when None.
        opacity: Opacity of the colours over the image, above 0, at most 1.
        title: Text above the image.
        out_file: File to write the overlay to.
        show: Show the overlay in a window.
        wait_time: Seconds the window stays open; 0 waits for a key.
        output: The model's output, if it draws itself: one with a method ``draw``, see
            `segkernel.interfaces.model.Output`.

    Raises:
        UsageError: When opacity is out of range, there is nothing to draw, or there is no display.
        DataError: When sizes differ, the image cannot be read or the file not written.
    """
    pixels = read(image) if isinstance(image, str | Path) else as_rgb(np.asarray(image))
    maps = {"truth": truth, "prediction": prediction} if truth is not None else {"": prediction}
    fields = {caption: value for caption, value in maps.items() if value is not None}
    if not fields:
        raise UsageError("draw needs a prediction, a truth, or both")
    colors, entries = palette or default_palette(255), []
    if draws_itself(output):
        painted = {
            caption: output.draw(pixels, _field(value), tuple(classes or ()), colors, opacity)
            for caption, value in fields.items()
        }
    else:
        labels = {caption: _as_array(value) for caption, value in fields.items()}
        plain = background_ids(classes or ())
        painted = {caption: overlay(pixels, array, colors, opacity, plain) for caption, array in labels.items()}
        entries = _legend([*labels.values()], classes or (), colors)
    body = np.concatenate([_captioned(panel, caption) for caption, panel in painted.items()], axis=1)
    header, legend = (_text_rows(rows, body.shape[1]) for rows in ([(title, None)] if title else [], entries))
    canvas = np.concatenate([header, body, legend])
    if out_file is not None:
        write(out_file, canvas)
    if show:
        show_image(canvas, title or "prediction", wait_time)
    return canvas


def draws_itself(output: Any) -> bool:
    """Whether an output of a model has a method ``draw``."""
    return hasattr(output, "draw")


def background_ids(classes: Sequence[str]) -> list[int]:
    """Return the ids of the classes that are a background by name."""
    return [index for index, name in enumerate(classes) if name.strip().lower() in BACKGROUND]


def _legend(
    labels: Sequence[np.ndarray], classes: Sequence[str], colors: Sequence[Color]
) -> list[tuple[str, Color | None]]:
    """Return name and colour of the classes that occur, no colour for those that are not painted."""
    present = sorted(set[int]().union(*map(_classes_in, labels)))
    names, plain = dict(enumerate(classes)), background_ids(classes)
    known = [i for i in present if 0 <= i < len(colors)]
    return [
        (f"{names[i]} (not painted)", None) if i in plain else (names.get(i, f"class {i}"), colors[i]) for i in known
    ]


def _field(value: Any) -> Any:
    """Return the main field of a `Prediction`; other values, such as `Targets`, as they are."""
    return value["seg"] if isinstance(value, Prediction) else value


def _as_array(value: Any) -> np.ndarray:
    value = value["seg"] if hasattr(value, "fields") else value
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _classes_in(labels: np.ndarray) -> list[int]:
    """Return the class ids that occur in labels; none for floats."""
    if labels.dtype.kind == "f":
        return []
    if labels.ndim == 3:
        return [index for index, mask in enumerate(labels) if (mask == 1).any()]
    return [index for index in np.unique(labels).tolist() if index != IGNORE]


def _captioned(panel: np.ndarray, caption: str) -> np.ndarray:
    if caption:
        panel = np.ascontiguousarray(panel)
        panel[: min(_LINE_HEIGHT, len(panel)), : _text_width(caption) + 12] //= 3
        _put_text(panel, caption, 6, 15, (255, 255, 255))
    return panel


def _text_rows(entries: Sequence[tuple[str, Color | None]], width: int) -> np.ndarray:
    """Return white rows with texts, a coloured square before those with a colour, wrapped to ``width`` pixels."""
    places, x, row = [], 6, 0
    for text, color in entries:
        needed = _text_width(text) + 34
        if x > 6 and x + needed > width:
            x, row = 6, row + 1
        places.append((text, color, x, row * _LINE_HEIGHT))
        x += needed
    canvas = np.full(((row + 1) * _LINE_HEIGHT + 4 if places else 0, width, 3), 255, np.uint8)
    for text, color, x, y in places:
        if color is not None:
            canvas[y + 6 : y + 19, x : x + 13] = _BORDER
            canvas[y + 7 : y + 18, x + 1 : x + 12] = color
        _put_text(canvas, text, x if color is None else x + 18, y + 17, (30, 30, 30))
    return canvas


def _put_text(canvas: np.ndarray, text: str, x: int, y: int, color: Color) -> None:
    cv2 = opencv()
    cv2.putText(canvas, text, (x, y), *_FONT, color, 1, cv2.LINE_AA)


def _text_width(text: str) -> int:
    return int(opencv().getTextSize(text, *_FONT, 1)[0][0])


def show_image(canvas: np.ndarray, title: str, wait_time: float, keep: bool = False) -> str:
    """Show an image (H, W, 3) RGB in a window; return the key that was pressed, or an empty string.

    Args:
        canvas: The image.
        title: Title of the window.
        wait_time: Seconds to wait for a key; 0 waits for as long as it takes.
        keep: Leave the window open, for the next frame of a video.

    Raises:
        UsageError: When there is no display.
    """
    cv2 = opencv()
    message = "no display to show an image on: write it to a file instead (out_file, or --out without --show)"
    # Without a display, the window library exits the process instead of raising.
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UsageError(message)
    try:
        cv2.imshow(title, canvas[..., ::-1])
        key = cv2.waitKey(round(wait_time * 1000))
        if not keep:
            cv2.destroyWindow(title)
    except cv2.error as error:
        raise UsageError(message) from error
    return chr(key & 255) if key >= 0 else ""
