"""Camera, light, and the canvas that keeps image and labels in step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segkernel.image import opencv

RGB = tuple[float, float, float]
Point = tuple[float, float, float]
"""Metres to the right, up, and ahead."""
Pixel = tuple[float, float]
Paint = tuple[np.ndarray, np.ndarray]
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
        """Return a random camera for an image of ``size``."""
        height, width = size
        return cls(
            size,
            focal=width * rng.uniform(0.75, 1.1),
            height=rng.uniform(1.3, 2.2),
            horizon=height * rng.uniform(0.4, 0.54),
            center=width * rng.uniform(0.38, 0.62),
            bend=rng.normal(0, 0.0012),
        )

    def project(self, points: Sequence[Point]) -> list[Pixel]:
        """Return the pixels (x, y) of points in metres."""
        return [self._pixel(*point) for point in points]

    def _pixel(self, x: float, y: float, z: float) -> Pixel:
        scale = self.focal / max(z, 0.1)
        return self.center + (x + self.bend * z * z) * scale, self.horizon + (self.height - y) * scale

    def scale(self, z: float) -> float:
        """Return the pixels of one metre at distance ``z``."""
        return self.focal / max(z, 0.1)


@dataclass(frozen=True)
class Light:
    """Lighting by time of day and weather.

    Args:
        tint: Factor per channel.
        haze: Colour of the distance.
        reach: Metres after which two thirds of a colour are haze.
        sun: -1 when it is on the left, 1 on the right.
        strength: Strength of direct light, 0 (overcast) to 1; makes shadows and lit sides.
        night: Whether lamps and windows glow.
    """

    tint: RGB
    haze: RGB
    reach: float
    sun: int
    strength: float
    night: bool

    def shade(self, color: Sequence[float] | np.ndarray, z: float = 0.0, face: float = 1.0) -> RGB:
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
    """An image (H, W, 3) uint8 RGB and its class ids (H, W) uint8, drawn on together."""

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera, self.light = camera, light
        self.image = np.zeros((*camera.size, 3), np.uint8)
        self.labels = np.zeros(camera.size, np.uint8)
        self._cv2: Any = opencv()

    def polygon(self, pixels: Sequence[Pixel], color: RGB, label: int | None) -> None:
        """Fill a polygon given in pixels; ``label`` None leaves the class ids as they are."""
        points = [np.array([(_fixed(x), _fixed(y)) for x, y in pixels], np.int32)]
        self._cv2.fillPoly(self.image, points, color, self._cv2.LINE_AA, _SHIFT)
        if label is not None:
            self._cv2.fillPoly(self.labels, points, label, self._cv2.LINE_8, _SHIFT)

    def line(self, start: Pixel, end: Pixel, width: float, color: RGB, label: int) -> None:
        """Draw a bar between two pixels, at least one pixel wide."""
        (x0, y0), (x1, y1) = start, end
        half = max(width, 1.0) / 2 / (math.hypot(x1 - x0, y1 - y0) or 1.0)
        u, v = (y0 - y1) * half, (x1 - x0) * half
        self.polygon([(x0 + u, y0 + v), (x0 - u, y0 - v), (x1 - u, y1 - v), (x1 + u, y1 + v)], color, label)

    def ellipse(self, center: Pixel, radii: Pixel, color: RGB, label: int | None) -> None:
        """Fill an upright ellipse; ``center`` and ``radii`` in pixels (x, y)."""
        middle = _fixed(center[0]), _fixed(center[1])
        axes = max(4, _fixed(radii[0])), max(4, _fixed(radii[1]))
        cv2 = self._cv2
        cv2.ellipse(self.image, middle, axes, 0, 0, 360, color, -1, cv2.LINE_AA, _SHIFT)
        if label is not None:
            cv2.ellipse(self.labels, middle, axes, 0, 0, 360, label, -1, cv2.LINE_8, _SHIFT)

    def texture(self, texture: np.ndarray, pixels: Sequence[Pixel], label: int) -> None:
        """Warp a texture onto a quadrangle of pixels: its top left, top right, bottom right, bottom left corner."""
        cv2, corners = self._cv2, np.array(pixels, np.float64).clip(-_FAR_OUT, _FAR_OUT)
        window, low, span = self._visible(corners.min(0), corners.max(0))
        if min(span) < 1:
            return
        rows, columns = texture.shape[:2]
        source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, (corners - low).astype(np.float32))
        warped = cv2.warpPerspective(texture, matrix, span, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros(span[::-1], np.uint8)
        cv2.fillPoly(mask, [np.round((corners - low) * 2**_SHIFT).astype(np.int32)], 255, cv2.LINE_8, _SHIFT)
        cv2.copyTo(warped, mask, self.image[window])
        self.labels[window][mask > 0] = label

    def sprite(self, shape: np.ndarray, box: tuple[float, float, float, float], paint: Paint, label: int) -> None:
        """Scale ``shape`` (h, w, 3), alpha, brightness and facing, to a box (left, top, right, bottom).

        Args:
            paint: The colour at brightness 1 and what is added to it, both RGB.
        """
        left, top, right, bottom = box
        window, low, span = self._visible(np.array([left, top]), np.array([right, bottom]))
        if min(span) < 1:
            return
        rows, columns = shape.shape[:2]
        matrix = np.array([[(right - left) / columns, 0, left - low[0]], [0, (bottom - top) / rows, top - low[1]]])
        drawn = self._cv2.warpAffine(shape, matrix, span, flags=self._cv2.INTER_LINEAR)
        alpha = drawn[..., :1]
        bright = drawn[..., 1:2] + (0.25 * self.light.strength * self.light.sun) * drawn[..., 2:]
        color = np.minimum(bright * paint[0] + paint[1], 255)
        self.image[window] = (self.image[window] * (1 - alpha) + color * alpha).astype(np.uint8)
        self.labels[window][alpha[..., 0] > 0.5] = label

    def _visible(
        self, low: np.ndarray, high: np.ndarray
    ) -> tuple[tuple[slice, slice], tuple[int, int], tuple[int, int]]:
        """Return the part of a box that is inside the image: as slices, its first pixel, and its (width, height)."""
        height, width = self.camera.size
        x0, y0 = max(math.floor(low[0]), 0), max(math.floor(low[1]), 0)
        x1, y1 = min(math.ceil(high[0]) + 1, width), min(math.ceil(high[1]) + 1, height)
        return (slice(y0, y1), slice(x0, x1)), (x0, y0), (x1 - x0, y1 - y0)

    def darken(self, center: Pixel, radii: Pixel, factor: float) -> None:
        """Multiply the image inside an ellipse by ``factor``: a shadow on the ground."""
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


def _fixed(pixel: float) -> int:
    return round(min(max(pixel, -_FAR_OUT), _FAR_OUT) * 2**_SHIFT)
