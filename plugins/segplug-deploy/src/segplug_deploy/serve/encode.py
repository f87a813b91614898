"""Predictions as answers: a PNG, run lengths, polygons, shares of the classes.

A prediction is a map of class ids (H, W) uint8, masks of classes (K, H, W) uint8 of 0 and 1, values (H, W) float32, or
objects.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from segkernel.headers import PNG
from segkernel.image import opencv
from segkernel.labels import IGNORE, Labels
from segplug_deploy.serve.objects import Found, class_map, described
from segplug_deploy.serve.refusal import Refusal

Answer = np.ndarray | Found
"""What a model computes of an image."""

MOST_RINGS = 100_000
"""Outlines and holes of one class."""
PNG_TYPE, JSON_TYPE = "image/png", "application/json"


def png(labels: np.ndarray, palette: Sequence[Sequence[int]], text: str = "") -> bytes:
    """Return a PNG whose values are the class ids (H, W) uint8, shown in the colours of the palette.

    It has eight bits, one ``IDAT`` chunk and no row filters, so that a few lines decode it. ``text``, in ASCII, goes
    into a ``tEXt`` chunk with the keyword ``objects``.
    """
    height, width = labels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter, 0 for none
    rows[:, 1:] = labels
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    colors, body = np.asarray(palette, np.uint8).tobytes(), zlib.compress(rows.tobytes(), 1)
    parts = {
        b"IHDR": header,
        b"PLTE": colors,
        b"tEXt": b"objects\0" + text.encode("ascii"),
        b"IDAT": body,
        b"IEND": b"",
    }
    if not text:
        del parts[b"tEXt"]
    return PNG + b"".join(_chunk(name, data) for name, data in parts.items())


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def value_png(values: np.ndarray) -> bytes:
    """Return values (H, W) as thousandths in a grey PNG of 16 bits, from 0 to 65535."""
    thousandths = np.clip(np.rint(np.nan_to_num(values) * 1000), 0, 65535).astype(np.uint16)
    return opencv().imencode(".png", thousandths)[1].tobytes()


def value_range(values: np.ndarray) -> dict[str, float]:
    """Return the smallest, the mean and the largest value."""
    return {name: float(getattr(np.nan_to_num(values), name)()) for name in ("min", "mean", "max")}


def shares(labels: np.ndarray, known: Labels) -> list[dict[str, Any]]:
    """Return id, name, colour, number of pixels and share (0 to 1) of each class that occurs."""
    counts = labels.sum((1, 2)) if labels.ndim == 3 else np.bincount(labels.ravel(), minlength=len(known.classes))
    return [
        {
            "id": int(index),
            "name": known.classes[index],
            "color": list(known.palette[index]),
            "pixels": int(counts[index]),
            "share": float(counts[index] / (labels.shape[-2] * labels.shape[-1])),
        }
        for index in np.flatnonzero(counts)
    ]


def coco_rle(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W) as COCO's compressed run lengths, which ``pycocotools.mask.decode`` reads."""
    columns = mask.astype(bool).T.ravel()
    edges = np.flatnonzero(np.diff(columns, prepend=False))  # the first run is one of zeros, perhaps of none
    runs = np.diff(edges, prepend=0, append=columns.size)
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    return {"size": list(mask.shape), "counts": _characters(numbers)}


def _characters(numbers: np.ndarray) -> str:
    """Return each number in groups of five bits, lowest first; bit six marks that another group follows."""
    groups, going, rest = [], [], numbers.astype(np.int64)
    active = np.ones(len(rest), bool)
    while active.any():
        low, rest = rest & 31, rest >> 5  # an arithmetic shift: -1 remains for negative numbers
        more = rest != np.where(low & 16, -1, 0)
        groups.append(np.where(active, low + 32 * more + 48, 0))
        active = active & more
        going.append(active)
    characters = np.stack(groups, 1).ravel()
    return characters[characters > 0].astype(np.uint8).tobytes().decode("ascii")


Ring = list[list[int]]


def polygons(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W) as a GeoJSON ``MultiPolygon`` along the edges of pixels, (0, 0) at the top left corner.

    x is to the right, y down, in pixels. Pixels that touch at a corner are one polygon.

    Raises:
        Refusal: 422 for more than `MOST_RINGS` outlines and holes.
    """
    cv2 = opencv()
    # In a mask of twice the size, each corner of a pixel is next to exactly one pixel of the contour.
    twice = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    contours, tree = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if len(contours) > MOST_RINGS:
        raise Refusal(422, f"the labels have more than {MOST_RINGS:,} polygons: ask for format=rle")
    parents = tree[0][:, 3] if len(contours) else ()
    found: dict[int, list[Ring]] = {index: [] for index, parent in enumerate(parents) if parent < 0}
    for index, parent in sorted(enumerate(parents), key=lambda entry: entry[1]):  # outlines first, then holes
        found[index if parent < 0 else parent].append(_ring((contours[index][:, 0] + 1) // 2))
    return {"type": "MultiPolygon", "coordinates": list(found.values())}


def _ring(points: np.ndarray) -> Ring:
    """Return a closed ring with its corners only."""
    points = points[(points != np.roll(points, 1, 0)).any(1)]
    ahead, behind = np.roll(points, -1, 0) - points, points - np.roll(points, 1, 0)
    corners = points[ahead[:, 0] * behind[:, 1] != ahead[:, 1] * behind[:, 0]]
    return [*corners.tolist(), corners[0].tolist()]


def _each_class(function: Callable[[np.ndarray], dict[str, Any]], key: str) -> Callable[..., dict[str, Any]]:
    def described(labels: np.ndarray, known: Labels) -> dict[str, Any]:
        masks = labels == 1 if labels.ndim == 3 else None
        found = shares(labels, known)
        for each in found:
            each[key] = function(labels == each["id"] if masks is None else masks[each["id"]])
        return {"classes": found}

    return described


FORMATS: dict[str, Callable[[np.ndarray, Labels], dict[str, Any]]] = {
    "json": lambda labels, known: {"classes": shares(labels, known)},
    "rle": _each_class(coco_rle, "rle"),
    "polygons": _each_class(polygons, "geometry"),
}
"""Answers in JSON, by the name of the format; ``png`` is the other one."""


OBJECT_FORMATS: dict[str, Callable[[Found, Labels], dict[str, Any]]] = {
    "json": described,
    "rle": lambda found, known: described(found, known, "rle", coco_rle),
    "polygons": lambda found, known: described(found, known, "geometry", polygons),
}
"""The same for objects."""


def encode(labels: Answer, kind: str, model: str, known: Labels) -> tuple[bytes, str]:
    """Return the body of an answer and its media type.

    Args:
        labels: The prediction.
        kind: ``png``, or a name in `FORMATS`.
        model: Name of the model.
        known: Its classes and colours.

    Raises:
        Refusal: 422 when the format cannot hold the prediction.
    """
    if not isinstance(labels, np.ndarray):
        if kind == "png":
            palette = [*known.palette, *[(0, 0, 0)] * (IGNORE + 1 - len(known.palette))]
            text = json.dumps(described(labels, known)["objects"], separators=(",", ":"))
            return png(class_map(labels), palette, text), PNG_TYPE
        return _json(model, labels["size"].tolist(), OBJECT_FORMATS[kind](labels, known)), JSON_TYPE
    values = labels.dtype.kind == "f"
    if values and kind not in ("png", "json"):
        raise Refusal(422, f"{model} predicts values, not classes: ask for format=png or json")
    if kind == "png" and labels.ndim == 3:
        raise Refusal(422, f"a pixel can have several classes of {model}: ask for format=rle, polygons or json")
    if kind == "png":
        return value_png(labels) if values else png(labels, known.palette), PNG_TYPE
    found = value_range(labels) if values else FORMATS[kind](labels, known)
    return _json(model, labels.shape[-2:], found), JSON_TYPE


def _json(model: str, size: Sequence[int], found: dict[str, Any]) -> bytes:
    about = {"model": model, "height": size[0], "width": size[1]}
    return json.dumps({**about, **found}, separators=(",", ":")).encode()
