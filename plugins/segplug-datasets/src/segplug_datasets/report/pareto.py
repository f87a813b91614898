"""Accuracy beside latency of several models: which are not beaten in both, and a picture."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 420, 64, 52, 20, 24


@dataclass(frozen=True)
class Point:
    """One model.

    Args:
        name: Name.
        latency: Milliseconds per image.
        score: mIoU in percent.
    """

    name: str
    latency: float
    score: float


def front(points: Sequence[Point]) -> list[bool]:
    """Return for each point whether no other is at least as fast and as accurate, and better in one."""

    def beats(other: Point, point: Point) -> bool:
        no_worse = other.latency <= point.latency and other.score >= point.score
        return no_worse and (other.latency, other.score) != (point.latency, point.score)

    return [not any(beats(other, point) for other in points) for point in points]


def latencies(models: Sequence[str], size: tuple[int, int], repeats: int = 20) -> list[float]:
    """Return the median milliseconds that each model takes from pixels to labels, of one image of noise at a time.

    Models take turns, so that a machine that becomes slower does so for all.

    Args:
        models: Arguments of `segkernel.Predictor`.
        size: Height and width of the image.
        repeats: Measurements of each, after two that do not count.
    """
    from segkernel import Predictor

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    predictors = [Predictor(model) for model in models]
    times: list[list[float]] = [[] for _ in predictors]
    for _ in range(repeats + 2):
        for found, predictor in zip(times, predictors):
            start = time.perf_counter()
            predictor.predict(pixels)  # labels are copied to the CPU, which waits for a GPU
            found.append(1000 * (time.perf_counter() - start))
    return [statistics.median(found[2:]) for found in times]


def pareto_svg(points: Sequence[Point]) -> str:
    """Return latency (to the right, logarithmic) and mIoU (upwards) as an SVG picture, with a line along the front."""
    xs = [math.log10(point.latency) for point in points]
    ys = [point.score for point in points]
    left, right = min(xs) - 0.15, max(xs) + 0.15
    room = max((max(ys) - min(ys)) * 0.15, 1.0)
    low, high = min(ys) - room, max(ys) + room

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)

    best = front(points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        'font-family="sans-serif" font-size="12" fill="#1c2330" role="img">'
        "<title>Latency and mIoU of models</title>"
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        *_axes(place, (left, right), (low, high)),
    ]
    line = sorted((point for point, kept in zip(points, best) if kept), key=lambda point: point.latency)
    steps = " ".join("{:.1f},{:.1f}".format(*place(math.log10(point.latency), point.score)) for point in line)
    parts.append(f'<polyline points="{steps}" fill="none" stroke="#2563eb" stroke-width="1.5"/>')
    for point, kept in zip(points, best):
        x, y = place(math.log10(point.latency), point.score)
        color = "#2563eb" if kept else "#98a1b0"
        anchor, shift = ("end", -9) if x > _WIDTH * 0.7 else ("start", 9)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}"/>')
        parts.append(f'<text x="{x + shift:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}">{escape(point.name)}</text>')
    return "".join([*parts, "</svg>\n"])


def _axes(place: Any, across: tuple[float, float], upwards: tuple[float, float]) -> list[str]:
    (x0, y0), (x1, y1) = place(across[0], upwards[0]), place(across[1], upwards[1])
    parts = [f'<path d="M{x0:.1f} {y1:.1f}V{y0:.1f}H{x1:.1f}" fill="none" stroke="#98a1b0"/>']
    for value in _log_ticks(*across):
        x, _ = place(math.log10(value), upwards[0])
        parts.append(f'<text x="{x:.1f}" y="{y0 + 18:.1f}" text-anchor="middle" fill="#667085">{value:g}</text>')
    for value in _ticks(*upwards):
        _, y = place(across[0], value)
        parts.append(f'<path d="M{x0:.1f} {y:.1f}H{x1:.1f}" stroke="#e2e5ea"/>')
        parts.append(f'<text x="{x0 - 8:.1f}" y="{y + 4:.1f}" text-anchor="end" fill="#667085">{value:g}</text>')
    parts.append(f'<text x="{(x0 + x1) / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">ms per image</text>')
    middle = (y0 + y1) / 2
    parts.append(f'<text transform="translate(18 {middle:.0f}) rotate(-90)" text-anchor="middle">mIoU</text>')
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers in a range."""
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [round(step * number, 10) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers whose logarithm to base 10 is in a range: of each decade 1, 2 and 5, in a short one more."""
    factors = (1, 2, 5) if high - low > 0.6 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    decades = range(math.floor(low), math.ceil(high) + 1)
    values = [factor * 10.0**decade for decade in decades for factor in factors]
    return [value for value in values if low <= math.log10(value) <= high]
