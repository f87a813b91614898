"""Cars, people, lamps and signs."""

from __future__ import annotations

import math

import numpy as np

from segplug_datasets.street.canvas import CAR, PERSON, POLE, RGB, Canvas, Pixel


def draw_car(canvas: Canvas, x: float, z: float, rng: np.random.Generator, facing: int) -> None:
    """Draw a car whose near end is at (x, z), seen from behind (``facing`` 1) or from the front (-1)."""
    color = _paint(rng)
    is_van = rng.random() < 0.2
    width, length = (2.0, rng.uniform(4.8, 7.5)) if is_van else (rng.uniform(1.65, 1.9), rng.uniform(3.6, 4.7))
    _shadow(canvas, x, z + length / 2, width * 0.75, length * 0.55)
    if is_van:
        top = rng.uniform(1.9, 3.0)
        _block(canvas, x, z, width, length, (0.35, top), (0.0, 0.0, 0.04), color)
        _panes(canvas, x, z, width, length, (top * 0.55, top * 0.88), (0.02, 0.7, 0.12))
    else:
        waist, top = rng.uniform(0.8, 0.95), rng.uniform(1.35, 1.6)
        _block(canvas, x, z, width, length, (0.28, waist), (0.0, 0.0, 0.0), color)
        cabin = (rng.uniform(0.02, 0.2), rng.uniform(0.12, 0.3), 0.14)
        _block(canvas, x, z, width, length, (waist, top), cabin, color)
        _panes(canvas, x, z, width, length, (waist + 0.06, top - 0.08), cabin)
    _wheels(canvas, x, z, width, length)
    _lamps(canvas, x, z, width, facing)


def _block(
    canvas: Canvas,
    x: float,
    z: float,
    width: float,
    length: float,
    y: tuple[float, float],
    taper: tuple[float, float, float],
    color: RGB,
) -> None:
    """Draw the visible faces of a box between two heights.

    ``taper`` is how far the top is set back from the bottom: at the near end and the far end as shares of the length,
    and on either side in metres.
    """
    near, far, inset = taper
    bottom, top = y
    z0, z1, n0, f1 = z + near * length * 0.5, z + length * (1 - far * 0.5), z + near * length, z + length * (1 - far)
    half = width / 2
    light, project = canvas.light, canvas.camera.project
    side = -1 if x > 0 else 1  # the flank that faces the street's middle
    if abs(x) > half:
        flank = [(x + side * half, bottom, z0), (x + side * (half - inset), top, n0)]
        flank += [(x + side * (half - inset), top, f1), (x + side * half, bottom, z1)]
        canvas.polygon(project(flank), light.shade(color, z, light.side(side) * 0.85), CAR)
    if top < canvas.camera.height:
        roof = [
            (x - half + inset, top, n0),
            (x + half - inset, top, n0),
            (x + half - inset, top, f1),
            (x - half + inset, top, f1),
        ]
        canvas.polygon(project(roof), light.shade(color, z, 1.15), CAR)
    end = [(x - half, bottom, z0), (x + half, bottom, z0), (x + half - inset, top, n0), (x - half + inset, top, n0)]
    canvas.polygon(project(end), light.shade(color, z, 0.9), CAR)


def _panes(
    canvas: Canvas,
    x: float,
    z: float,
    width: float,
    length: float,
    y: tuple[float, float],
    taper: tuple[float, float, float],
) -> None:
    """Draw the windows of the near end and of the visible flank."""
    near, far, inset = taper
    low, high = y
    half = width / 2 - 0.1
    project = canvas.camera.project
    glass = canvas.light.shade((48, 56, 64), z)
    z0, n0 = z + near * length * 0.5, z + near * length
    end = [(x - half, low, z0), (x + half, low, z0), (x + half - inset, high, n0), (x - half + inset, high, n0)]
    canvas.polygon(project(end), glass, CAR)
    side = -1 if x > 0 else 1
    if abs(x) > width / 2:
        at, back, front = x + side * width / 2, z + length * (near * 0.6 + 0.06), z + length * (1 - far * 0.8 - 0.08)
        flank = [(at, low, back), (at - side * inset, high, back + 0.25)]
        flank += [(at - side * inset, high, front - 0.3), (at, low, front)]
        canvas.polygon(project(flank), glass, CAR)


def _wheels(canvas: Canvas, x: float, z: float, width: float, length: float) -> None:
    tyre = canvas.light.shade((26, 26, 28), z)
    scale = canvas.camera.scale(z)
    for at in (x - width / 2 + 0.12, x + width / 2 - 0.12):
        foot = canvas.camera.project([(at, 0.0, z), (at, 0.32, z)])
        canvas.line(foot[0], foot[1], 0.22 * scale, tyre, CAR)
    side = -1 if x > 0 else 1
    if abs(x) > width / 2:
        for along in (0.2, 0.78):
            center = canvas.camera.project([(x + side * width / 2, 0.31, z + along * length)])[0]
            scale = canvas.camera.scale(z + along * length)
            lean = min(1.0, abs(x) / (z + along * length) + 0.12)
            canvas.ellipse(center, (0.31 * scale * lean, 0.31 * scale), tyre, CAR)


def _lamps(canvas: Canvas, x: float, z: float, width: float, facing: int) -> None:
    color: RGB = (190, 25, 20) if facing > 0 else (235, 235, 215)
    if canvas.light.night:
        color = (900, 160, 120) if facing > 0 else (1400, 1350, 1100)
    shade = canvas.light.shade(color, z)
    half, project = width / 2, canvas.camera.project
    for side in (-1, 1):
        left, right = sorted((x + side * half * 0.95, x + side * half * 0.62))
        canvas.polygon(project([(left, 0.78, z), (right, 0.78, z), (right, 0.62, z), (left, 0.62, z)]), shade, CAR)
    plate = canvas.light.shade((215, 215, 200), z)
    box = [(x - 0.26, 0.55, z), (x + 0.26, 0.55, z), (x + 0.26, 0.43, z), (x - 0.26, 0.43, z)]
    canvas.polygon(project(box), plate, CAR)


def draw_person(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """Draw a standing or walking person at (x, z)."""
    height = rng.uniform(1.5, 1.92) if rng.random() < 0.88 else rng.uniform(1.0, 1.4)
    scale, light = canvas.camera.scale(z), canvas.light
    _shadow(canvas, x, z, 0.35, 0.3)
    foot = canvas.camera.project([(x, 0, z)])[0]

    def at(right: float, up: float) -> tuple[float, float]:
        return foot[0] + right * height * scale, foot[1] - up * height * scale

    trousers, coat = (light.shade(_cloth(rng), z) for _ in range(2))
    skin = light.shade(np.array((225, 175, 140)) * rng.uniform(0.4, 1.0), z)
    stride, swing = rng.uniform(0.0, 0.16), rng.uniform(-0.12, 0.12)
    unit = height * scale
    for leg in (-1, 1):
        canvas.line(at(0.03 * leg, 0.5), at(leg * stride + 0.02 * leg, 0.0), 0.085 * unit, trousers, PERSON)
    if rng.random() < 0.2:  # a long coat or a skirt
        canvas.polygon([at(-0.07, 0.5), at(0.07, 0.5), at(0.13, 0.24), at(-0.13, 0.24)], coat, PERSON)
    for arm in (-1, 1):
        hand = at(arm * 0.15 + swing * arm, 0.44)
        canvas.line(at(arm * 0.11, 0.8), hand, 0.06 * unit, coat, PERSON)
    body = [at(-0.12, 0.82), at(0.12, 0.82), at(0.09, 0.46), at(-0.09, 0.46)]
    canvas.polygon(body, coat, PERSON)
    if rng.random() < 0.3:  # a bag or a backpack
        canvas.ellipse(
            at(rng.choice([-0.14, 0.14]), rng.uniform(0.45, 0.7)), (0.07 * unit, 0.1 * unit), trousers, PERSON
        )
    canvas.ellipse(at(0, 0.92), (0.058 * unit, 0.075 * unit), skin, PERSON)
    hair = light.shade(np.array((70, 50, 35)) * rng.uniform(0.3, 2.2), z)
    canvas.ellipse(at(0, 0.955), (0.056 * unit, 0.045 * unit), hair, PERSON)


def draw_lamp(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """Draw a street lamp whose arm reaches over the road."""
    height, scale = rng.uniform(4.5, 8), canvas.camera.scale(z)
    inwards = -math.copysign(rng.uniform(0.4, 1.8), x)
    points = canvas.camera.project([(x, 0, z), (x, height, z), (x + inwards, height + 0.25, z)])
    grey = rng.uniform(50, 150)
    color = canvas.light.shade((grey, grey, grey * 1.03), z)
    canvas.line(points[0], points[1], 0.14 * scale, color, POLE)
    canvas.line(points[1], points[2], 0.1 * scale, color, POLE)
    head = (900.0, 820.0, 560.0) if canvas.light.night else (200.0, 200.0, 190.0)
    canvas.ellipse(points[2], (0.28 * scale, 0.12 * scale), canvas.light.shade(head, z), POLE)


def draw_sign(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """Draw a traffic sign or a traffic light on its pole."""
    height, scale = rng.uniform(2.3, 3.3), canvas.camera.scale(z)
    points = canvas.camera.project([(x, 0, z), (x, height, z)])
    grey = rng.uniform(90, 160)
    canvas.line(points[0], points[1], 0.09 * scale, canvas.light.shade((grey, grey, grey), z), POLE)
    if rng.random() < 0.35:
        _traffic_light(canvas, points[1], scale, z, rng)
    else:
        _plate(canvas, points[1], scale * rng.uniform(0.28, 0.45), z, rng)


def _traffic_light(canvas: Canvas, top: Pixel, scale: float, z: float, rng: np.random.Generator) -> None:
    x, y = top
    left, right, low, high = x - 0.17 * scale, x + 0.17 * scale, y + 0.5 * scale, y - 0.45 * scale
    box = [(left, high), (right, high), (right, low), (left, low)]
    canvas.polygon(box, canvas.light.shade((28, 30, 30), z), POLE)
    lit = int(rng.integers(3))
    color = ((230, 40, 30), (235, 180, 40), (50, 210, 110))[lit]
    canvas.ellipse((x, y + (-0.28 + 0.3 * lit) * scale), (0.1 * scale, 0.1 * scale), color, POLE)


def _plate(canvas: Canvas, top: Pixel, radius: float, z: float, rng: np.random.Generator) -> None:
    x, y = top
    rims = ((200, 25, 30), (30, 70, 170), (235, 190, 30), (190, 30, 40))
    rim = canvas.light.shade(rims[int(rng.integers(4))], z)
    face = canvas.light.shade((230, 230, 225), z) if rng.random() < 0.6 else rim
    kind = rng.random()
    if kind < 0.45:
        canvas.ellipse(top, (radius, radius), rim, POLE)
        canvas.ellipse(top, (radius * 0.7, radius * 0.7), face, POLE)
        return
    corners = [(-1, 0.8), (1, 0.8), (0, -0.95)] if kind < 0.7 else [(-0.8, -1), (0.8, -1), (0.8, 1), (-0.8, 1)]
    for size, color in ((1.0, rim), (0.62, face)):
        canvas.polygon([(x + u * radius * size, y + v * radius * size) for u, v in corners], color, POLE)


def _shadow(canvas: Canvas, x: float, z: float, across: float, along: float) -> None:
    """Darken the ground under an object and on its side away from the sun."""
    light = canvas.light
    lean = -light.sun * light.strength * across * 0.9
    center = canvas.camera.project([(x + lean, 0, z)])[0]
    (_, near), (_, far) = canvas.camera.project([(x, 0, max(z - along, 0.6)), (x, 0, z + along)])
    radii = (across * (1 + 0.5 * light.strength) * canvas.camera.scale(z), max(1.0, (near - far) / 2))
    canvas.darken((center[0], (near + far) / 2), radii, 0.62 - 0.22 * light.strength)


def _paint(rng: np.random.Generator) -> RGB:
    if rng.random() < 0.6:
        grey = rng.choice([rng.uniform(25, 60), rng.uniform(90, 150), rng.uniform(190, 240)])
        return grey, grey, grey * 1.03
    bright = rng.uniform(0.6, 1.1)
    colors = ((150, 25, 25), (30, 55, 120), (35, 85, 60), (175, 140, 60), (90, 120, 150))
    red, green, blue = colors[int(rng.integers(5))]
    return red * bright, green * bright, blue * bright


def _cloth(rng: np.random.Generator) -> RGB:
    if rng.random() < 0.55:
        grey = rng.uniform(20, 110)
        return grey, grey * rng.uniform(0.9, 1.05), grey * rng.uniform(0.9, 1.25)
    return rng.uniform(30, 220), rng.uniform(30, 200), rng.uniform(30, 210)
