"""Houses and trees along the street."""

from __future__ import annotations

import math

import numpy as np

from segplug_datasets.street.canvas import BUILDING, RGB, VEGETATION, Canvas
from segplug_datasets.street.ground import Street
from segplug_datasets.street.textures import crowns

_NEAR, _FAR = 1.2, 90.0  # metres


def draw_skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw the end of the street at the horizon: blocks of houses and tree tops in haze."""
    camera = canvas.camera
    x = -20.0
    scale = camera.focal / _FAR
    while x < camera.size[1] + 20:
        width, height = rng.uniform(4, 14) * scale * 2, rng.uniform(3, 16) * scale
        if rng.random() < 0.55:
            wall = canvas.light.shade(_wall_color(rng), _FAR * 0.8)
            top, bottom = camera.horizon - height, camera.horizon + 2
            canvas.polygon([(x, top), (x + width, top), (x + width, bottom), (x, bottom)], wall, BUILDING)
        else:
            _foliage(canvas, x + width / 2, camera.horizon - height * 0.3, width * 0.8, _FAR * 0.8, rng)
        x += width * rng.uniform(0.6, 1.4)


def draw_sides(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Draw the houses, and the trees between them, on both sides, the furthest first."""
    plots: list[tuple[float, float, int, bool]] = []
    for side in (-1, 1):
        z, built = _NEAR, rng.uniform(0.35, 0.95)
        while z < _FAR:
            depth = rng.uniform(5, 15)
            plots.append((z, min(z + depth, _FAR), side, rng.random() < built))
            z += depth + (rng.uniform(1, 5) if rng.random() < 0.35 else 0)
    for near, far, side, is_built in sorted(plots, reverse=True):
        if is_built:
            _house(canvas, street.wall(side), near, far, side, rng)
        else:
            _garden(canvas, street.wall(side), near, far, side, rng)


def draw_tree(canvas: Canvas, x: float, z: float, rng: np.random.Generator, height: float | None = None) -> None:
    """Draw a tree at (x, z): trunk, then foliage."""
    height = height or rng.uniform(4.5, 9.5)
    radius = height * rng.uniform(0.26, 0.38)
    trunk = canvas.camera.project([(x, 0, z), (x + rng.normal(0, 0.2), height * 0.65, z)])
    scale = canvas.camera.scale(z)
    bark = rng.uniform(45, 90)
    shade = canvas.light.shade((bark, bark * 0.85, bark * 0.7), z)
    canvas.line(trunk[0], trunk[1], max(1.0, rng.uniform(0.18, 0.4) * scale), shade, VEGETATION)
    middle = canvas.camera.project([(x, height - radius, z)])[0]
    _foliage(canvas, middle[0], middle[1], 2 * radius * scale, z, rng)


def _house(canvas: Canvas, x: float, near: float, far: float, side: int, rng: np.random.Generator) -> None:
    height = rng.uniform(4.5, 9) if rng.random() < 0.5 else rng.uniform(8, 22)
    light, color = canvas.light, _wall_color(rng)
    back = x + side * rng.uniform(6, 12)
    project = canvas.camera.project
    outline = [(x, height, near), (back, height, near), (back, 0, near), (x, 0, near)]
    if rng.random() < 0.4:  # a roof that rises away from the street
        top, ridge = height + rng.uniform(1.5, 3), (x + back) / 2
        tile = (rng.uniform(70, 150), rng.uniform(50, 80), rng.uniform(45, 75))
        slope = [(x, height, near), (x, height, far), (ridge, top, far), (ridge, top, near)]
        canvas.polygon(project(slope), light.shade(tile, near), BUILDING)
        outline.insert(1, (ridge, top, near))
    canvas.polygon(project(outline), light.shade(color, near, 0.75), BUILDING)
    wall = [(x, height, near), (x, height, far), (x, 0, far), (x, 0, near)]
    corners = project(wall)
    if abs(corners[1][0] - corners[0][0]) < 4:  # too narrow to show windows
        canvas.polygon(corners, light.shade(np.array(color) * 0.8, near, light.side(-side)), BUILDING)
        return
    picture = _facade(far - near, height, color, light.night, rng)
    picture = _lit(canvas, picture, near, far, light.side(-side))
    canvas.texture(picture, corners, BUILDING)


def _lit(canvas: Canvas, picture: np.ndarray, near: float, far: float, face: float) -> np.ndarray:
    """Return the facade in its light, with more haze towards its far end."""
    light = canvas.light
    # Perspective makes the far part of the wall small: haze is taken at distances even in the texture of the wall.
    clear = np.exp(-np.linspace(near, far, picture.shape[1]) / light.reach).astype(np.float32)[None, :, None]
    shaded = np.minimum(picture * np.array(light.tint, np.float32) * face, 255)
    return (shaded * clear + np.array(light.haze, np.float32) * (1 - clear)).astype(np.uint8)


def _facade(width: float, height: float, color: RGB, night: bool, rng: np.random.Generator) -> np.ndarray:
    """Return the texture of a wall, 5 pixels per metre: storeys of windows over a ground floor."""
    rows, columns = max(8, int(height * 5)), max(8, int(width * 5))
    picture = np.empty((rows, columns, 3), np.float32)
    picture[:] = np.array(color, np.float32) * (1 + 0.05 * rng.standard_normal((rows, columns, 1), np.float32))
    storey, spacing = int(rng.integers(13, 18)), int(rng.integers(7, 16))
    tall, wide = rng.uniform(0.4, 0.65), rng.uniform(0.35, 0.75)
    if rng.random() < 0.15:
        tall, wide = 0.85, 0.92  # a front of glass
    in_row = (np.arange(rows)[::-1] + int(rng.integers(3))) % storey
    in_column = (np.arange(columns) + int(rng.integers(spacing))) % spacing
    window = ((in_row > storey * (1 - tall) * 0.6) & (in_row < storey * (0.6 + 0.4 * tall)))[:, None] & (
        in_column < spacing * wide
    )
    panes = rng.uniform(0.4, 1.1, (rows // storey + 2, columns // spacing + 2)).astype(np.float32)
    each = panes[np.arange(rows)[:, None] // storey, np.arange(columns)[None] // spacing]
    glass: np.ndarray = np.array(_glass(rng), np.float32) * each[..., None]
    if night:
        glass = np.where((each > 0.85)[..., None], np.array((900.0, 760.0, 420.0), np.float32), glass * np.float32(0.5))
    frame = window & ((in_column < 1) | (in_column >= spacing * wide - 1))
    picture[window] = glass[window]
    picture[frame] = np.array(color, np.float32) * rng.uniform(0.6, 1.3)
    picture[: max(1, rows // 30)] *= 0.7
    _ground_floor(picture, rng)
    return picture


def _ground_floor(picture: np.ndarray, rng: np.random.Generator) -> None:
    columns = picture.shape[1]
    kind = rng.random()
    if kind < 0.35:  # a shop: large panes under a sign
        picture[-11:-1, 1:-1] = np.array(_glass(rng), np.float32) * 0.9
        picture[-15:-11] = rng.uniform(40, 230, 3)
    elif kind < 0.75:  # a door in a plinth
        picture[-4:] *= 0.75
        at = int(rng.integers(max(1, columns - 6)))
        picture[-11:, at : at + 5] = rng.uniform(30, 120, 3)


def _garden(canvas: Canvas, x: float, near: float, far: float, side: int, rng: np.random.Generator) -> None:
    count = max(1, int((far - near) / (3.5 if near < 40 else 7)))
    for z in sorted(rng.uniform(max(near, 3), max(far, 4), count), reverse=True):
        draw_tree(canvas, x + side * rng.uniform(0.5, 5), float(z), rng)
    if rng.random() < 0.6:
        top = rng.uniform(0.8, 2.0)
        hedge = canvas.camera.project([(x, top, near), (x, top, far), (x, 0, far), (x, 0, near)])
        green = _leaf(rng)
        rows, columns = int(top * 8) + 2, max(4, int((far - near) * 5))
        picture = np.array(green, np.float32) * (1 + 0.25 * rng.standard_normal((rows, columns, 1), np.float32))
        canvas.texture(_lit(canvas, np.clip(picture, 0, 255), near, far, 0.9), hedge, VEGETATION)


def _foliage(canvas: Canvas, x: float, y: float, size: float, z: float, rng: np.random.Generator) -> None:
    """Paste leaves around a pixel, ``size`` pixels wide."""
    if not 3 <= size <= 3 * max(canvas.camera.size):
        return
    shape, light = crowns()[int(rng.integers(24))], canvas.light
    clear = math.exp(-z / light.reach)
    leaf = np.array(_leaf(rng), np.float32) * np.array(light.tint, np.float32) * clear
    half, tall = size / 2, size / 2 * rng.uniform(0.8, 1.25)
    haze = np.array(light.haze, np.float32) * (1 - clear)
    canvas.sprite(shape, (x - half, y - tall, x + half, y + tall), (leaf, haze), VEGETATION)


def _leaf(rng: np.random.Generator) -> RGB:
    if rng.random() < 0.15:  # autumn
        return rng.uniform(110, 165), rng.uniform(80, 115), rng.uniform(25, 55)
    return rng.uniform(35, 85), rng.uniform(70, 120), rng.uniform(25, 60)


def _wall_color(rng: np.random.Generator) -> RGB:
    kind, bright = rng.random(), rng.uniform(0.6, 1.0)
    if kind < 0.3:  # brick
        return 165 * bright, 95 * bright, 75 * bright
    if kind < 0.65:  # plaster
        return 215 * bright, 195 * bright, 160 * bright
    if kind < 0.9:  # concrete
        return 160 * bright, 160 * bright, 165 * bright
    return rng.uniform(90, 200), rng.uniform(90, 200), rng.uniform(90, 200)


def _glass(rng: np.random.Generator) -> RGB:
    grey = rng.uniform(40, 110)
    return grey * 0.85, grey * 0.97, grey * 1.15
