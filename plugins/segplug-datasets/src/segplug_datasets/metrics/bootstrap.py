"""Confidence intervals: percentile bootstrap over images (Efron, 1979), of one model or of two on the same images.

Each draw resamples all images with replacement and recomputes the metric from their pixels; the spread over many draws
estimates that over other sets of similar images. A fixed seed gives the same intervals every time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

_AT_ONCE = 64
"""Number of draws in memory at a time."""


def draws(count: int, repeats: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the draw counts of ``count`` images, in chunks of (repeats, count) float64."""
    rng = np.random.default_rng(seed)
    for start in range(0, repeats, _AT_ONCE):
        rows = min(_AT_ONCE, repeats - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=rows).astype(np.float64)


def resample(areas: np.ndarray, repeats: int, seed: int) -> np.ndarray:
    """Return (repeats, 3, classes) pixels of drawn images.

    Args:
        areas: (images, 3, classes), at least one image.
        repeats: Number of bootstrap draws.
        seed: Seed of the draws.
    """
    flat = areas.reshape(len(areas), -1).astype(np.float64)
    return np.concatenate([weights @ flat for weights in draws(len(areas), repeats, seed)]).reshape(
        repeats, *areas.shape[1:]
    )


def interval(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds that contain the share ``level`` of the values (repeats, ...); nan where all are nan.

    Draws without the class are nan and left out.
    """
    tail = 50 * (1 - level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that occurs in no draw
        low, high = np.nanpercentile(values, [tail, 100 - tail], axis=0)
    return low, high


def p_value(differences: np.ndarray) -> np.ndarray:
    """Return the two-sided p-value of differences (repeats, ...) from 0; nan where all are nan.

    Twice the share of draws on the rarer side of 0, at least 2 / (repeats + 1), the resolution of the draws.
    """
    known = np.sum(~np.isnan(differences), axis=0)
    with np.errstate(invalid="ignore"):
        rarer = np.minimum((differences <= 0).sum(0), (differences >= 0).sum(0))
    return np.where(known > 0, np.minimum(2 * (rarer + 1) / (known + 1), 1.0), np.nan)
