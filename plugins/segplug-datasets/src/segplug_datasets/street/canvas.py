"""Camera, light, and the canvas that keeps picture and labels in step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segkernel.image import opencv

RGB = tuple[float, float, float]
SKY, BUILDING, ROAD, SIDEWALK, VEGETATION, CAR, PERSON, POLE = range(8)
_SHIFT = 3  # OpenCV's fractional bits of coordinates
_FAR_OUT = 4000.0  # pixels; corners further away would overflow OpenCV's coordinates


@dataclass(frozen=True)
class Camera:
    """A pinhole above the road, looking along a street that may bend.

    Args:
        size: (height, width) in pixels.
        focal: In pixels.
        height: Above the ground, metres.
        horizon: Row of the horizon.
        center: Column of the point straight ahead.
        bend: Metres by which the street leaves the straight line, per square metre ahead.
    """

    size: tuple[int, int]
    focal: float
    height: float
    horizon: float
    center: float
    bend: float

    @classmethod
    def draw(cls, rng: np.random.Generator, size: tuple[int, int]) -> Camera:
        """Return a random camera for a picture of ``size``."""
        height, width = size
        return cls(
            size,
            focal=width * rng.uniform(0.75, 1.1),
            height=rng.uniform(1.3, 2.2),
            horizon=height * rng.uniform(0.4, 0.54),
            center=width * rng.uniform(0.38, 0.62),
            bend=rng.normal(0, 0.0012),
        )

    def project(self, points: Sequence[tuple[float, float, float]] | np.ndarray) -> np.ndarray:
        """Return the pixels (n, 2) as (x, y) of points (n, 3) in metres."""
        x, y, z = np.asarray(points, np.float64).reshape(-1, 3).T
        scale = self.focal / np.maximum(z, 0.1)
        pixels = np.stack([self.center + (x + self.bend * z * z) * scale, self.horizon + (self.height - y) * scale], 1)
        return pixels.clip(-_FAR_OUT, _FAR_OUT)

    def scale(self, z: float) -> float:
        """Return the pixels of one metre at distance ``z``."""
        return self.focal / max(z, 0.1)


@dataclass(frozen=True)
class Light:
    """What the time of day and the weather do to a colour.

    Args:
        tint: Factor per channel.
        haze: Colour of the distance.
        reach: Metres after which two thirds of a colour are haze.
        sun: -1 when it stands on the left, 1 on the right.
        strength: Of direct light, 0 (overcast) to 1; what makes shadows and lit sides.
        night: Whether lamps and windows glow.
    """

    tint: RGB
    haze: RGB
    reach: float
    sun: int
    strength: float
    night: bool

    def shade(self, color: Sequence[float], z: float = 0.0, face: float = 1.0) -> RGB:
        """Return ``color`` as seen over ``z`` metres, on a face that takes ``face`` of the light."""
        clear = math.exp(-z / self.reach)
        red, green, blue = (
            min(255.0, c * t * face) * clear + h * (1 - clear) for c, t, h in zip(color, self.tint, self.haze)
        )
        return red, green, blue

    def side(self, side: float) -> float:
        """Return how much light a face takes that looks to the left (-1) or right (1)."""
        return 1.0 + 0.3 * self.strength * (1 if side * self.sun > 0 else -1)


class Canvas:
    """A picture (H, W, 3) uint8 RGB and its class ids (H, W) uint8, drawn on together."""

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera, self.light = camera, light
        self.image = np.zeros((*camera.size, 3), np.uint8)
        self.labels = np.zeros(camera.size, np.uint8)
        self._cv2: Any = opencv()

    def polygon(self, pixels: np.ndarray, color: RGB, label: int | None) -> None:
        """Fill a polygon given in pixels (n, 2); ``label`` None leaves the class ids as they are."""
        points = [np.round(np.asarray(pixels).clip(-_FAR_OUT, _FAR_OUT) * 2**_SHIFT).astype(np.int32)]
        self._cv2.fillPoly(self.image, points, color, self._cv2.LINE_AA, _SHIFT)
        if label is not None:
            self._cv2.fillPoly(self.labels, points, label, self._cv2.LINE_8, _SHIFT)

    def line(self, start: Sequence[float], end: Sequence[float], width: float, color: RGB, label: int) -> None:
        """Draw a bar between two pixels."""
        (x0, y0), (x1, y1) = start, end
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        across = np.array([(y0 - y1) / length, (x1 - x0) / length]) * max(width, 1.0) / 2
        corners = np.array([start, start, end, end]) + np.stack([across, -across, -across, across])
        self.polygon(corners, color, label)

    def ellipse(self, center: Sequence[float], radii: Sequence[float], color: RGB, label: int | None) -> None:
        """Fill an upright ellipse; ``center`` and ``radii`` in pixels (x, y)."""
        middle = tuple(round(min(max(v, -_FAR_OUT), _FAR_OUT) * 2**_SHIFT) for v in center)
        axes = tuple(max(4, round(min(v, _FAR_OUT) * 2**_SHIFT)) for v in radii)
        cv2 = self._cv2
        cv2.ellipse(self.image, middle, axes, 0, 0, 360, color, -1, cv2.LINE_AA, _SHIFT)
        if label is not None:
            cv2.ellipse(self.labels, middle, axes, 0, 0, 360, label, -1, cv2.LINE_8, _SHIFT)

    def texture(self, picture: np.ndarray, corners: np.ndarray, label: int) -> None:
        """Lay a picture onto the quadrangle with ``corners`` (4, 2): top left, top right, bottom right, bottom left."""
        cv2, (height, width) = self._cv2, self.camera.size
        low = np.maximum(np.floor(corners.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, (width, height))
        if (high - low < 1).any():
            return
        rows, columns = picture.shape[:2]
        source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, (corners - low).astype(np.float32))
        span = (int(high[0] - low[0]), int(high[1] - low[1]))
        warped = cv2.warpPerspective(picture, matrix, span, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros(span[::-1], np.uint8)
        cv2.fillPoly(mask, [np.round((corners - low) * 2**_SHIFT).astype(np.int32)], 255, cv2.LINE_8, _SHIFT)
        window = slice(low[1], high[1]), slice(low[0], high[0])
        cv2.copyTo(warped, mask, self.image[window])
        self.labels[window][mask > 0] = label

    def sprite(self, color: np.ndarray, alpha: np.ndarray, left: int, top: int, label: int) -> None:
        """Paste a picture (h, w, 3) through ``alpha`` (h, w) in 0 to 1, with its corner at a pixel; may lie outside."""
        height, width = alpha.shape
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + width, self.camera.size[1]), min(top + height, self.camera.size[0])
        if x0 >= x1 or y0 >= y1:
            return
        part = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        window = slice(y0, y1), slice(x0, x1)
        share = alpha[part][..., None]
        self.image[window] = (self.image[window] * (1 - share) + color[part] * share).astype(np.uint8)
        self.labels[window][alpha[part] > 0.5] = label

    def darken(self, center: Sequence[float], radii: Sequence[float], factor: float) -> None:
        """Multiply the picture inside an ellipse by ``factor``: a shadow on the ground."""
        (x, y), (width, height) = center, radii
        x0, x1 = max(int(x - width), 0), min(int(x + width) + 2, self.camera.size[1])
        y0, y1 = max(int(y - height), 0), min(int(y + height) + 2, self.camera.size[0])
        if x0 >= x1 or y0 >= y1:
            return
        u = (np.arange(x0, x1) - x) / max(width, 0.5)
        v = (np.arange(y0, y1) - y) / max(height, 0.5)
        inside = np.clip(2.5 * (1 - u[None] ** 2 - v[:, None] ** 2), 0, 1)[..., None]
        window = self.image[y0:y1, x0:x1]
        self.image[y0:y1, x0:x1] = (window * (1 - (1 - factor) * inside)).astype(np.uint8)
