"""Pictures of instances: boxes with names and scores, masks, skeletons.

draw(image, objects_of(prediction["seg"], image.shape[:2]), ["person", "car"])
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segkernel.geometry import Size
from segkernel.image import opencv
from segkernel.labels import Color

_FONT, _THICKNESS = 0, 1  # OpenCV's FONT_HERSHEY_SIMPLEX
_LINE = 1 / 400  # of the image's longer side


@dataclass
class Objects:
    """What is drawn of the objects of an image; the first is drawn last.

    Args:
        boxes: (n, 4).
        labels: (n,), class ids.
        scores: (n,); None for a ground truth.
        masks: (n, H, W) bool, or None.
        keypoints: (n, points, 3), the third value positive for points that are drawn, or None.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None
    keypoints: np.ndarray | None = None

    def above(self, score: float) -> Objects:
        """Return the objects of this score or more; all of a ground truth."""
        if self.scores is None:
            return self
        kept = self.scores >= score
        parts = (self.boxes, self.labels, self.scores, self.masks, self.keypoints)
        return Objects(*(None if part is None else part[kept] for part in parts))  # type: ignore[arg-type]


def objects_of(field: Any, size: Size) -> Objects:
    """Return the objects of the decoded field of an output, or of `Targets`, as arrays.

    Args:
        field: A mapping with ``boxes``, ``scores``, ``labels``, or `Targets` with ``boxes``, ``classes`` and so on.
        size: Height and width of the image.
    """
    given = {name: _array(field[name]) for name in field if name in ("boxes", "scores", "labels", "classes", "masks")}
    boxes = given.get("boxes", np.zeros((0, 4), np.float32))
    labels = given.get("labels", given.get("classes", np.zeros(len(boxes), np.int64)))
    masks, points = given.get("masks"), _array(field["keypoints"]).copy() if "keypoints" in field else None
    if masks is None and "instances" in field:
        masks = _bitmaps(field["instances"], size, len(boxes))
    return Objects(boxes, labels, given.get("scores"), masks, points)


def draw(
    image: np.ndarray,
    objects: Objects,
    classes: Sequence[str] = (),
    opacity: float = 0.5,
    skeleton: Sequence[tuple[int, int]] = (),
) -> np.ndarray:
    """Return an image (H, W, 3) uint8 RGB with its objects drawn over it, each in a colour of its own.

    Args:
        image: (H, W, 3) uint8 RGB.
        objects: In its pixels.
        classes: Names, by class id.
        opacity: Of the masks, from 0 to 1.
        skeleton: Pairs of keypoints to connect.
    """
    picture, cv2 = np.ascontiguousarray(image).copy(), opencv()
    line = max(1, round(max(picture.shape[:2]) * _LINE))
    order = range(len(objects.boxes) - 1, -1, -1)
    colors = [_color(number) for number in range(len(objects.boxes))]
    for number in order if objects.masks is not None else ():
        _paint(picture, objects.masks[number], colors[number], opacity)  # type: ignore[index]
    for number in order:
        if objects.keypoints is not None:
            _stick_figure(picture, objects.keypoints[number], skeleton, colors[number], line)
        left, top, right, bottom = np.rint(objects.boxes[number]).astype(int).tolist()
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colors[number], line)
    for number in order:
        label = int(objects.labels[number])
        name = classes[label] if 0 <= label < len(classes) else f"class {label}"
        score = "" if objects.scores is None else f" {objects.scores[number]:.2f}"
        _caption(picture, f"{name}{score}", objects.boxes[number], colors[number], line)
    return picture


def _paint(picture: np.ndarray, mask: np.ndarray, color: Color, opacity: float) -> None:
    cv2 = opencv()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    part, inside = picture[window], mask[window]
    part[inside] = np.rint(part[inside] * (1 - opacity) + np.asarray(color) * opacity)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, color, 1)


def _stick_figure(
    picture: np.ndarray, points: np.ndarray, skeleton: Sequence[tuple[int, int]], color: Color, line: int
) -> None:
    cv2, places = opencv(), np.floor(points[:, :2]).astype(int).tolist()
    for first, last in skeleton:
        if max(first, last) < len(points) and min(points[first, 2], points[last, 2]) > 0:
            cv2.line(picture, places[first], places[last], color, line, cv2.LINE_AA)
    for place, known in zip(places, points[:, 2] > 0):
        if known:
            cv2.circle(picture, place, line + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(picture, place, line + 1, color, 1, cv2.LINE_AA)


def _caption(picture: np.ndarray, text: str, box: np.ndarray, color: Color, line: int) -> None:
    """Write a text on a ground of the object's colour, above the box or, at the border of the image, in it."""
    cv2, scale = opencv(), 0.35 + 0.1 * line
    (width, height), below = cv2.getTextSize(text, _FONT, scale, _THICKNESS)
    left = int(np.clip(box[0], 0, max(picture.shape[1] - width, 0)))
    bottom = int(box[1]) if box[1] >= height + below + 2 else int(box[1]) + height + below + 2
    cv2.rectangle(picture, (left, bottom - height - below - 2), (left + width + 2, bottom), color, -1)
    dark = sum(color) > 380
    ink = (0, 0, 0) if dark else (255, 255, 255)
    cv2.putText(picture, text, (left + 1, bottom - below), _FONT, scale, ink, _THICKNESS, cv2.LINE_AA)


def _color(number: int) -> Color:
    """Return a bright colour; consecutive ones are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618 % 1, 0.8, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _bitmaps(masks: Any, size: Size, count: int) -> np.ndarray:
    """Return the masks of a ground truth as (n, H, W) bool."""
    from pycocotools import mask

    from segplug_instances.coco_json import run_lengths

    if not isinstance(masks, Mapping):
        return _array(masks).astype(bool)
    encoded = run_lengths({name: _array(part) for name, part in masks.items()}, size, count)
    return np.moveaxis(mask.decode(encoded), 2, 0).astype(bool) if encoded else np.zeros((0, *size), bool)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
