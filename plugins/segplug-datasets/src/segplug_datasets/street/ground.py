"""Sky and ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segkernel.image import opencv
from segplug_datasets.street.canvas import RGB, ROAD, SIDEWALK, SKY, VEGETATION, Canvas, Light
from segplug_datasets.street.textures import TILE, noise


@dataclass(frozen=True)
class Street:
    """Layout of the street, in metres left and right of the camera.

    Args:
        left: Edge of the road on the left, negative.
        right: Edge of the road on the right.
        walks: Width of the sidewalk on either side.
        verges: Width of the strip between sidewalk and houses on either side.
        crossing: Distance of a zebra crossing, or None.
    """

    left: float
    right: float
    walks: tuple[float, float]
    verges: tuple[float, float]
    crossing: float | None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Street:
        """Return a random street."""
        lane = rng.uniform(2.8, 3.6)
        own = rng.uniform(-0.6, 0.6)  # where in its lane the camera is
        left_lanes, right_lanes = int(rng.integers(1, 3)), int(rng.integers(1, 3))
        return cls(
            left=-lane * (left_lanes + 0.5) + own,
            right=lane * (right_lanes - 0.5) + own + rng.uniform(0.2, 1.5),
            walks=(rng.uniform(1.8, 5.0), rng.uniform(1.8, 5.0)),
            verges=(rng.choice([0.0, rng.uniform(1, 5)]), rng.choice([0.0, rng.uniform(1, 5)])),
            crossing=rng.uniform(7, 18) if rng.random() < 0.3 else None,
        )

    def edge(self, side: int) -> float:
        """Return where the road ends on the left (-1) or right (1)."""
        return self.left if side < 0 else self.right

    def wall(self, side: int) -> float:
        """Return where the houses begin on the left (-1) or right (1)."""
        place = 0 if side < 0 else 1
        return self.edge(side) + side * (self.walks[place] + self.verges[place])


def paint_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the sky above the horizon: a gradient, brighter lower down, and clouds."""
    light, rows, columns = canvas.light, 48, 64
    zenith, haze = np.array(_zenith(rng, light), np.float32), np.array(light.haze, np.float32)
    rise = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None] ** rng.uniform(0.8, 2.5)
    octaves = _window(4 + int(rng.integers(2)), rng, rows, columns) + 0.6 * _window(3, rng, rows, columns)
    share = np.clip((octaves + rng.uniform(-1.2, 1.2)) * 0.5, 0, rng.uniform(0.3, 0.9))[..., None]
    white = np.array(light.shade((rng.uniform(190, 255),) * 3), np.float32)
    small = (zenith * (1 - rise) + haze * rise) * (1 - share) + white * share
    height, width = min(canvas.camera.size[0], int(canvas.camera.horizon) + 2), canvas.camera.size[1]
    small = np.clip(small, 0, 255).astype(np.uint8)
    canvas.image[:height] = opencv().resize(small, (width, height), interpolation=opencv().INTER_LINEAR)
    canvas.labels[:] = SKY


def paint_ground(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Paint road, sidewalks and verges below the horizon, in perspective, with markings and shadows."""
    camera, light = canvas.camera, canvas.light
    height, width = camera.size
    top = min(height - 1, int(camera.horizon) + 1)
    below = np.arange(top, height, dtype=np.float32)[:, None] + 0.5 - camera.horizon
    z = np.minimum(camera.height * camera.focal / below, 250)
    x = (np.arange(width, dtype=np.float32)[None] + 0.5 - camera.center) * z / camera.focal - camera.bend * z * z
    labels, colors = _surfaces(x, z, street, rng)
    relief = 1 + _relief(x, z, rng) * np.exp(-z / 22)
    relief *= _shadows(x, z, street, light, rng)
    marked = _marks(x, z, street, rng)
    painted = np.where(marked[..., None], np.array(_paint(rng), np.float32), colors)
    painted *= relief[..., None] * np.array(light.tint, np.float32)
    clear = np.exp(-z / light.reach)[..., None]
    canvas.image[top:] = np.clip(painted * clear + np.array(light.haze, np.float32) * (1 - clear), 0, 255)
    canvas.labels[top:] = labels


def _zenith(rng: np.random.Generator, light: Light) -> RGB:
    if light.night:
        return 8.0, 10.0, 26.0
    if light.strength < 0.3:
        grey = rng.uniform(120, 190)
        return grey, grey, grey * 1.03
    return rng.uniform(60, 120), rng.uniform(110, 160), rng.uniform(185, 235)


def _window(octave: int, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    top, left = (int(v) for v in rng.integers(TILE - max(height, width), size=2))
    return noise(octave)[top : top + height, left : left + width]


def _surfaces(x: np.ndarray, z: np.ndarray, street: Street, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return class ids (h, w) and colours (h, w, 3) of the ground."""
    asphalt = rng.uniform(55, 125)
    paving = rng.uniform(95, 165) if rng.random() < 0.7 else asphalt * rng.uniform(0.95, 1.3)
    warm = rng.uniform(0, 18)
    table = np.array(
        [
            (asphalt, asphalt, asphalt * rng.uniform(0.98, 1.08)),
            (paving + warm, paving + warm * 0.4, paving - warm * 0.3),
            _grass(rng) if rng.random() < 0.7 else (paving + warm, paving, paving - warm),
            (paving * 1.15, paving * 1.15, paving * 1.15),  # kerb
        ],
        np.float32,
    )
    classes = np.array([ROAD, SIDEWALK, VEGETATION if table[2, 1] > table[2, 0] else SIDEWALK, SIDEWALK], np.uint8)
    beyond = np.maximum(street.left - x, x - street.right)  # metres beyond the road's edge
    walk = np.where(x < 0, street.walks[0], street.walks[1])
    kind = (beyond > 0).astype(np.uint8) + (beyond > walk)
    kind[(beyond > 0) & (beyond < 0.18)] = 3
    joints = ((x % 0.9 < 0.07) | (z % 0.9 < 0.07)) & (z < 16) & (kind == 1)
    colors = table[kind]
    colors[joints] *= 0.82
    return classes[kind], colors


def _grass(rng: np.random.Generator) -> RGB:
    return rng.uniform(50, 105), rng.uniform(95, 130), rng.uniform(35, 65)


def _tiled(octave: int, x: np.ndarray, z: np.ndarray, scale: float, shift: np.ndarray) -> np.ndarray:
    """Return noise laid on the ground, ``scale`` pixels of its tile per metre."""
    cv2 = opencv()
    columns, rows = (x * scale + shift[0]).astype(np.float32), (z * scale + shift[1]).astype(np.float32)
    rows = np.broadcast_to(rows, columns.shape).copy()
    return cv2.remap(noise(octave), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _relief(x: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the texture of the surface: grain, stains and patches, as a relative change."""
    shift = rng.integers(TILE, size=2)
    patches = _tiled(5, x, z, 6, shift) > rng.uniform(0.9, 1.8)
    return 0.09 * _tiled(0, x, z, 24, shift) + 0.06 * _tiled(4, x, z, 12, shift) - 0.13 * patches


def _shadows(x: np.ndarray, z: np.ndarray, street: Street, light: Light, rng: np.random.Generator) -> np.ndarray:
    """Return the factor of light on the ground: houses and trees on the sun's side throw shadows over the street."""
    if light.strength < 0.25:
        return np.ones_like(x)
    depth = rng.uniform(0.0, 9.0)
    profile = np.interp(z[:, 0], np.linspace(0, 60, 16), rng.uniform(0, 1, 16) ** 1.5 * depth)[:, None]
    reach = (street.wall(1) - x) if light.sun > 0 else (x - street.wall(-1))
    shade = np.clip((profile - reach) * 4, 0, 1)
    if rng.random() < 0.5:
        shift = rng.integers(TILE, size=2)
        leaves = np.clip(2 * _tiled(2, x, z, 9, shift) + 1.2, 0, 1)
        crown = np.clip(3 * _tiled(5, x, z, 5, shift) - rng.uniform(1.5, 4.5), 0, 1)
        shade = np.maximum(shade, leaves * crown)
    return (1 - 0.55 * light.strength * shade).astype(np.float32)


def _marks(x: np.ndarray, z: np.ndarray, street: Street, rng: np.random.Generator) -> np.ndarray:
    """Return where the road is painted: lines, dashes, a crossing, with worn places."""
    on_road = (x > street.left) & (x < street.right)
    middle = (street.left + street.right) / 2 + rng.uniform(-0.5, 0.5)
    period = rng.uniform(4, 9)
    marked = (np.abs(x - middle) < 0.09) & ((z % period < period * 0.5) | (rng.random() < 0.3))
    if rng.random() < 0.6:
        marked |= (np.abs(x - street.left - 0.3) < 0.07) | (np.abs(x - street.right + 0.3) < 0.07)
    if rng.random() < 0.4:
        quarter = (street.right - street.left) / 4
        marked |= (np.abs(np.abs(x - middle) - quarter) < 0.07) & (z % 5 < 2)
    if street.crossing is not None:
        marked |= (np.abs(z - street.crossing) < 1.6) & (x % 1.1 < 0.55)
    worn = _tiled(2, x, z, 20, rng.integers(TILE, size=2)) > rng.uniform(0.6, 2.5)
    return marked & on_road & (z < 70) & ~worn


def _paint(rng: np.random.Generator) -> RGB:
    white = rng.uniform(165, 235)
    return (white, white * 0.85, white * 0.35) if rng.random() < 0.15 else (white, white, white * 0.97)
