"""Noise and foliage that every image shares; made once per process, always the same."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from segkernel.image import opencv

TILE = 256
CROWN = 72


@lru_cache(maxsize=8)
def noise(octave: int) -> np.ndarray:
    """Return a seamless tile (TILE, TILE) float32 of mean 0 and deviation 1; each octave is twice as coarse."""
    values = np.random.default_rng(octave).standard_normal((TILE, TILE)).astype(np.float32)
    cell = 2**octave
    if octave:
        cv2 = opencv()
        around = np.tile(values, (3, 3))
        values = cv2.GaussianBlur(around, (0, 0), cell * 0.5)[TILE : 2 * TILE, TILE : 2 * TILE]
    return (values - values.mean()) / values.std()


def grain(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return noise of a sensor, (H, W, 3) float32 of deviation 1, partly common to the channels."""
    (height, width), (top, left) = size, (int(v) for v in rng.integers(TILE, size=2))
    repeats = -(-(height + TILE) // (2 * TILE)), -(-(width + TILE) // (2 * TILE)), 1
    sheet = _grain() if max(repeats) == 1 else np.tile(_grain(), repeats)
    return sheet[top : top + height, left : left + width]


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    rng = np.random.default_rng(99)
    common = rng.standard_normal((2 * TILE, 2 * TILE, 1))
    own = rng.standard_normal((2 * TILE, 2 * TILE, 3))
    return (0.8 * common + 0.6 * own).astype(np.float32)


@lru_cache(maxsize=1)
def crowns() -> list[np.ndarray]:
    """Return shapes of foliage, (CROWN, CROWN, 3) float32: alpha, brightness, and -1 to 1 from left to right."""
    return [_crown(np.random.default_rng(1000 + index)) for index in range(24)]


def _crown(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : CROWN * 1j, -1 : 1 : CROWN * 1j].astype(np.float32)
    body = np.full((CROWN, CROWN), -1.0, np.float32)
    light = np.zeros((CROWN, CROWN), np.float32)
    for _ in range(int(rng.integers(7, 13))):
        cx, cy, radius = rng.uniform(-0.55, 0.55), rng.uniform(-0.5, 0.5), rng.uniform(0.28, 0.5)
        blob = 1 - ((x - cx) ** 2 + (y - cy) ** 2) / radius**2
        light = np.where(blob > np.maximum(body, 0), -(y - cy) / radius, light)
        body = np.maximum(body, blob)
    fine, coarse = (_rolled(octave, rng)[:CROWN, :CROWN] for octave in (1, 3))
    alpha = np.clip(2.2 * (body + 0.22 * fine + 0.28 * coarse) + 0.35, 0, 1)
    return np.stack([alpha, 1 + 0.22 * light + 0.16 * fine + 0.1 * coarse, x], 2).astype(np.float32)


def _rolled(octave: int, rng: np.random.Generator) -> np.ndarray:
    return np.roll(noise(octave), tuple(int(v) for v in rng.integers(TILE, size=2)), (0, 1))
