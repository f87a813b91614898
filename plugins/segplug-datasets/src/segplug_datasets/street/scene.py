"""One image: a camera, a light, a street, and its objects."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from segkernel.image import opencv
from segplug_datasets.street.backdrop import draw_sides, draw_skyline, draw_tree
from segplug_datasets.street.canvas import Camera, Canvas, Light
from segplug_datasets.street.ground import Street, paint_ground, paint_sky
from segplug_datasets.street.objects import draw_car, draw_lamp, draw_person, draw_sign
from segplug_datasets.street.textures import grain

Drawable = tuple[float, Callable[[], None]]
"""Distance of an object in metres, and the function that draws it."""


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a random street: image (H, W, 3) uint8 RGB and class ids (H, W) uint8."""
    canvas = Canvas(Camera.draw(rng, size), _light(rng))
    street = Street.draw(rng)
    paint_sky(canvas, rng)
    draw_skyline(canvas, rng)
    paint_ground(canvas, street, rng)
    draw_sides(canvas, street, rng)
    drawables = [*_furniture(canvas, street, rng), *_traffic(canvas, street, rng), *_people(canvas, street, rng)]
    for _, draw in sorted(drawables, key=lambda drawable: -drawable[0]):
        draw()
    return _develop(canvas.image, rng), canvas.labels


def _light(rng: np.random.Generator) -> Light:
    mood, sun = rng.random(), -1 if rng.random() < 0.5 else 1
    if mood < 0.45:  # sunny
        gain = rng.uniform(0.95, 1.3)
        haze = (rng.uniform(185, 230), rng.uniform(200, 230), rng.uniform(215, 240))
        return Light((gain * 1.04, gain, gain * 0.95), haze, rng.uniform(90, 220), sun, rng.uniform(0.5, 1), False)
    if mood < 0.72:  # overcast, rain or fog
        gain, grey = rng.uniform(0.65, 1.0), rng.uniform(150, 215)
        tint = (gain * 0.97, gain, gain * 1.03)
        return Light(tint, (grey, grey, grey * 1.02), rng.uniform(25, 120), sun, rng.uniform(0, 0.2), False)
    if mood < 0.9:  # low sun
        gain = rng.uniform(0.55, 0.95)
        haze = (rng.uniform(200, 245), rng.uniform(150, 185), rng.uniform(110, 160))
        return Light(
            (gain * 1.18, gain * 0.98, gain * 0.78), haze, rng.uniform(70, 160), sun, rng.uniform(0.6, 1), False
        )
    gain = rng.uniform(0.28, 0.45)
    return Light((gain, gain * 1.02, gain * 1.2), (22.0, 24.0, 42.0), rng.uniform(50, 110), sun, 0.0, True)


def _furniture(canvas: Canvas, street: Street, rng: np.random.Generator) -> list[Drawable]:
    """Lamps, signs and trees along both kerbs."""
    drawables: list[Drawable] = []
    spacing, trees = rng.uniform(10, 25), rng.random() < 0.5
    for side in (-1, 1):
        x = street.edge(side) + side * 0.5
        for z in np.arange(rng.uniform(5, 5 + spacing), 70, spacing):
            drawables.append(_thing(draw_lamp, canvas, x, z, rng))
        for z in rng.uniform(5, 40, int(rng.integers(0, 4))):
            drawables.append(_thing(draw_sign, canvas, x + side * rng.uniform(0, 0.6), z, rng))
        if trees:
            for z in np.arange(rng.uniform(4, 12), 60, rng.uniform(6, 14)):
                drawables.append(_thing(draw_tree, canvas, x + side * rng.uniform(0.3, 0.8), z, rng))
    return drawables


def _traffic(canvas: Canvas, street: Street, rng: np.random.Generator) -> list[Drawable]:
    """Cars parked at the kerbs and driving in the lanes."""
    drawables: list[Drawable] = []
    for side in (-1, 1):
        if rng.random() < 0.6:
            z, share = rng.uniform(3, 12), rng.uniform(0.3, 0.9)
            while z < 55:
                if rng.random() < share:
                    x = street.edge(side) - side * rng.uniform(1.0, 1.3)
                    drawables.append(_thing(draw_car, canvas, x, z, rng, 1 if side > 0 else -1))
                z += rng.uniform(5.2, 9)
    for z in rng.uniform(7, 60, int(rng.integers(0, 4))):
        drawables.append(_thing(draw_car, canvas, rng.uniform(-0.5, 0.5), z, rng, 1))
    for z in rng.uniform(7, 60, int(rng.integers(0, 4))):
        drawables.append(_thing(draw_car, canvas, street.left / 2 + rng.uniform(-1.2, 0.2), z, rng, -1))
    return drawables


def _people(canvas: Canvas, street: Street, rng: np.random.Generator) -> list[Drawable]:
    """People on the sidewalks, in groups at times, and some on the road."""
    drawables: list[Drawable] = []
    for side in (-1, 1):
        walk = street.walks[0 if side < 0 else 1]
        for z in rng.uniform(3.5, 28, int(rng.integers(0, 8))):
            x = street.edge(side) + side * rng.uniform(0.3, walk)
            for _ in range(1 if rng.random() < 0.7 else 2):
                drawables.append(_thing(draw_person, canvas, x, z, rng))
                x, z = x + rng.uniform(0.4, 0.8), z + rng.uniform(-0.4, 0.4)
    crossing = street.crossing or rng.uniform(8, 30)
    for x in rng.uniform(street.left, street.right, int(rng.integers(0, 3))):
        drawables.append(_thing(draw_person, canvas, x, crossing + rng.uniform(-1.2, 1.2), rng))
    return drawables


def _thing(
    draw: Callable[..., None], canvas: Canvas, x: float, z: float, rng: np.random.Generator, *more: int
) -> Drawable:
    return float(z), lambda: draw(canvas, float(x), float(z), rng, *more)


def _develop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image as a camera would give it: soft, darker in the corners, with noise and its own colours."""
    cv2 = opencv()
    height, width = image.shape[:2]
    blur = rng.uniform(0.0, 0.9) * width / 256
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    corners = 1 - rng.uniform(0, 0.25) * (x[None] ** 2 + y[:, None] ** 2) / 2
    cast = rng.normal(1, 0.04, 3).astype(np.float32) * rng.uniform(0.88, 1.12)
    noise = grain((height, width), rng) * np.float32(rng.uniform(1, 7))
    developed = image * (corners[..., None] * cast) + noise
    return np.clip(developed, 0, 255).astype(np.uint8)
