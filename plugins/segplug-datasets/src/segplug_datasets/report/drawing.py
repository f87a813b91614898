"""Figures of a report: the confusion matrix as SVG, images with their errors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from segkernel.image import opencv
from segkernel.labels import IGNORE, Color
from segplug_datasets.image import as_rgb, overlay
from segplug_datasets.visualize import background_ids

WRONG = (255, 32, 32)
"""The colour of wrong pixels."""
_WRITTEN = 24
"""Maximum number of classes for which the matrix shows numbers."""


def fit(array: np.ndarray, width: int) -> np.ndarray:
    """Return an image or a label map no wider than ``width`` pixels; labels (H, W) keep their values."""
    if array.shape[1] <= width:
        return array
    cv2 = opencv()
    size = (width, max(1, round(array.shape[0] * width / array.shape[1])))
    return cv2.resize(array, size, interpolation=cv2.INTER_NEAREST if array.ndim == 2 else cv2.INTER_AREA)


def errors(picture: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the image in grey, darker where ignored, with wrong pixels in red."""
    grey = np.repeat(picture.mean(2, keepdims=True), 3, 2)
    shown = 0.6 * grey + 60
    shown[truth == IGNORE] *= 0.35
    wrong = (predicted != truth) & (truth != IGNORE)
    shown[wrong] = 0.25 * grey[wrong] + 0.75 * np.array(WRONG)
    return shown.astype(np.uint8)


def panels(
    picture: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    palette: Sequence[Color],
    width: int = 360,
    classes: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Return the panels of one image, (h, w, 3) uint8 RGB by caption: image, truth, prediction, errors.

    A class that is a background by its name in ``classes`` is not painted.
    """
    plain = background_ids(classes)
    picture, truth, predicted = fit(as_rgb(picture), width), fit(truth, width), fit(predicted, width)
    return {
        "image": picture,
        "truth": overlay(picture, truth, palette, 0.7, plain),
        "prediction": overlay(picture, predicted, palette, 0.7, plain),
        "errors": errors(picture, predicted, truth),
    }


def as_uri(picture: np.ndarray, suffix: str = ".jpg") -> str:
    """Return an image (H, W, 3) RGB, or (H, W, 4) RGBA, as a data URI."""
    order = [2, 1, 0, 3][: picture.shape[2]]
    _, data = opencv().imencode(suffix, np.ascontiguousarray(picture[..., order]))
    kind = "jpeg" if suffix == ".jpg" else suffix[1:]
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def confusion_svg(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Return the confusion matrix as an SVG image: each row, a true class, as shares of its pixels.

    Opacity encodes the share, which works on light and dark pages. A class that does not occur has an empty row.

    Args:
        counts: (classes, classes or more) pixels, rows are true; columns beyond the classes count in the shares.
        classes: Names.
    """
    count = len(classes)
    with np.errstate(invalid="ignore"):
        shares = np.nan_to_num(counts[:count] / counts[:count].sum(1, keepdims=True))[:, :count]
    cell = max(6, min(34, 900 // count))
    margin = min(170, 12 + 7 * max(len(name) for name in classes))
    side = cell * count
    pixels = np.zeros((count, count, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = (37, 99, 235), np.round(255 * shares**0.6)  # emphasises small shares, the errors
    font = min(11, cell + 3)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {margin + side + 4} {margin + side + 4}" '
        f'width="{margin + side + 4}" font-family="sans-serif" font-size="{font}" fill="currentColor" role="img">'
        "<title>Confusion matrix: rows are true classes, columns predicted ones</title>",
        f'<image x="{margin}" y="{margin}" width="{side}" height="{side}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="{as_uri(pixels, ".png")}"/>',
        f'<rect x="{margin}" y="{margin}" width="{side}" height="{side}" fill="none" stroke="currentColor" '
        'stroke-opacity=".35"/>',
    ]
    parts += _names(classes, cell, margin)
    if count <= _WRITTEN and cell >= 24:
        parts += _numbers(shares, cell, margin)
    return "".join([*parts, "</svg>"])


def _names(classes: Sequence[str], cell: int, margin: int) -> list[str]:
    parts = []
    for place, name in enumerate(classes):
        middle, text = margin + (place + 0.5) * cell, escape(name)
        parts.append(f'<text x="{margin - 5}" y="{middle + 3:.1f}" text-anchor="end">{text}</text>')
        parts.append(f'<text transform="translate({middle + 3:.1f} {margin - 5}) rotate(-90)">{text}</text>')
    return parts


def _numbers(shares: np.ndarray, cell: int, margin: int) -> list[str]:
    """Return the shares in percent that are one or more, in white on cells that are nearly opaque."""
    parts = []
    for row, column in np.argwhere(shares >= 0.005).tolist():
        share = float(shares[row, column])
        color = "#fff" if share > 0.75 else "currentColor"
        place = f'x="{margin + (column + 0.5) * cell:.1f}" y="{margin + (row + 0.5) * cell + 4:.1f}"'
        parts.append(f'<text {place} text-anchor="middle" fill="{color}">{100 * share:.0f}</text>')
    return parts
