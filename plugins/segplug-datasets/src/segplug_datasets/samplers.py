"""Training samplers: pure functions of seed and epoch, independent of workers, ranks and restarts.

data:
  sampler: {type: BalancedSampler, method: class-aware}
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from segkernel.annotations import NonNegative, NonNegativeInt, PositiveInt
from segkernel.errors import UsageError
from segkernel.interfaces.data import Dataset
from segplug_datasets.class_index import ClassIndex, class_index
from segplug_datasets.wrappers import repeat_factors


def _rng(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(numbers))


class _ByContent:
    """Base of samplers that need the class index of the data set."""

    def __init__(self, cache: str | Path | None) -> None:
        self.cache = cache
        self._known: tuple[Dataset, ClassIndex] | None = None

    def _index(self, dataset: Dataset) -> ClassIndex:
        if self._known is None or self._known[0] is not dataset:
            self._known = dataset, class_index(dataset, self.cache)
        return self._known[1]


class BalancedSampler(_ByContent):
    """Draw images of rare classes more often; the number of draws per epoch stays the number of images.

    Args:
        method: ``repeat-factor``: in proportion to max(1, sqrt(oversample_thr / f)), f being the share of images with
            the image's rarest class (Gupta, Dollar and Girshick, LVIS, 2019). ``class-aware``: every class and
            each image of a class equally often (Shen, Lin and Huang, Relay backpropagation, 2016); images without
            classes are never drawn.
        oversample_thr: Share of images, above 0 and up to 1, below which a class is drawn more often.
        min_pixels: Minimum pixels for a class to count as present in an image.
        cache: Folder of the class index; None stores it next to the data.

    Raises:
        UsageError: When ``oversample_thr`` is outside that range.
    """

    conformance: ClassVar[Any] = ({}, {"method": "class-aware"})

    def __init__(
        self,
        method: Literal["repeat-factor", "class-aware"] = "repeat-factor",
        oversample_thr: NonNegative = 0.1,
        min_pixels: NonNegativeInt = 1,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__(cache)
        if not 0 < oversample_thr <= 1:
            raise UsageError(f"oversample_thr must be above 0 and at most 1, not {oversample_thr}")
        self.method, self.oversample_thr, self.min_pixels = method, oversample_thr, max(min_pixels, 1)

    def order(self, dataset: Dataset, seed: int, epoch: int, batch: int) -> np.ndarray:
        return proportional(self.weights(dataset), len(dataset), _rng(seed, epoch))

    def weights(self, dataset: Dataset) -> np.ndarray:
        """Return the relative frequency of each image, (N,) float64.

        Raises:
            UsageError: When no image has a class.
        """
        present = self._index(dataset).pixels >= self.min_pixels
        if not present.any():
            raise UsageError(f"no image has {self.min_pixels} pixels of any class: nothing to balance")
        if self.method == "repeat-factor":
            return repeat_factors(present, self.oversample_thr)
        images = present.sum(0)
        return (present[:, images > 0] / images[images > 0]).sum(1)


def proportional(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` indices in random order, in proportion to their weights, rounded up or down randomly.

    Systematic sampling: ``count`` equidistant points on the cumulated weights in random order. An index whose weight
    corresponds to 1.4 draws gets one or two, never none.
    """
    candidates = rng.permutation(np.flatnonzero(weights))
    ends = np.cumsum(weights[candidates])
    points = (np.arange(count) + rng.random()) * (ends[-1] / count)
    places = np.searchsorted(ends, points, side="right").clip(max=len(candidates) - 1)
    return rng.permutation(candidates[places])


class WeightedSampler:
    """Draw from the parts of a ``ConcatDataset`` or ``MixDataset`` in given proportions, independent of their sizes.

    An epoch draws as many images as the data set has. Each part is drawn without replacement, across epochs, and
    reshuffled when all of its images have been drawn.

    Args:
        weights: Relative weight of each part, above 0. None uses those of the data set (``weight`` in the sources of a
            ``MixDataset``), or draws every part equally often.

    Raises:
        UsageError: When a weight is not above 0, or there is not one for each part.
    """

    conformance: ClassVar = {"weights": (1.0, 3.0)}

    def __init__(self, weights: Sequence[NonNegative] | None = None) -> None:
        if weights is not None and (not weights or min(weights) <= 0):
            raise UsageError(f"weights must be above 0, one for each data set, not {list(weights)}")
        self.weights = weights

    def order(self, dataset: Dataset, seed: int, epoch: int, batch: int) -> np.ndarray:
        lengths, weights = self._parts(dataset)
        starts = np.cumsum([0, *lengths[:-1]])
        drawn = [
            start + _endless(seed, part, length, draws * epoch, draws)
            for part, (start, length, draws) in enumerate(zip(starts, lengths, shares_of(len(dataset), weights)))
        ]
        return _rng(seed, epoch).permutation(np.concatenate(drawn))

    def _parts(self, dataset: Any) -> tuple[list[int], Sequence[float]]:
        """Return the length and the weight of each part."""
        parts = getattr(dataset, "datasets", None)
        if not parts:
            name = type(dataset).__name__
            raise UsageError(f"WeightedSampler needs a ConcatDataset or MixDataset, not {name}")
        weights = self.weights or getattr(dataset, "weights", None) or [1.0] * len(parts)
        if len(weights) != len(parts):
            raise UsageError(f"{len(weights)} weights for {len(parts)} data sets")
        return [len(part) for part in parts], weights


def shares_of(count: int, weights: Sequence[float]) -> list[int]:
    """Split ``count`` in proportion to weights: the nearest whole numbers with that sum, each at least one.

    Raises:
        UsageError: When ``count`` is too small.
    """
    exact = np.asarray(weights, np.float64) / sum(weights) * count
    whole = np.maximum(np.floor(exact).astype(np.int64), 1)
    rest = count - int(whole.sum())
    if rest < 0:
        raise UsageError(f"{count} samples are too few for weights of {list(weights)}")
    whole[np.argsort(whole - exact, kind="stable")[:rest]] += 1
    return [int(part) for part in whole]


def _endless(seed: int, part: int, length: int, start: int, count: int) -> np.ndarray:
    """Return draws ``start`` to ``start + count`` of an endless sequence of permutations of ``length``."""
    passes = range(start // length, (start + count - 1) // length + 1)
    whole = np.concatenate([_rng(seed, part, number).permutation(length) for number in passes])
    return whole[start - passes.start * length :][:count]


class AspectRatioGroups(_ByContent):
    """Batch images of similar aspect ratio, to reduce padding; every image once per epoch.

    For transforms that keep an image's shape and do not crop to one size. Images are shuffled, sorted by width over
    height within windows of ``window`` batches, cut into batches, and these are shuffled. A batch across two epochs is
    mixed.

    Args:
        window: Batches that are sorted together: more reduce padding, fewer shuffle better.
        batch_size: Images of a similar shape; None is the micro-batch. Set it to ``optim.batch_size`` for the same
            order with any number of devices.
        cache: Folder of the index of image sizes; None stores it next to the data.

    Raises:
        UsageError: When ``window`` or ``batch_size`` is below 1.
    """

    conformance: ClassVar = {"window": 2, "batch_size": 3}

    def __init__(
        self, window: PositiveInt = 64, batch_size: PositiveInt | None = None, cache: str | Path | None = None
    ) -> None:
        super().__init__(cache)
        if window < 1 or (batch_size is not None and batch_size < 1):
            raise UsageError(f"window {window} and batch_size {batch_size} must be 1 or more")
        self.window, self.batch_size = window, batch_size

    def order(self, dataset: Dataset, seed: int, epoch: int, batch: int) -> np.ndarray:
        count, batch = len(dataset), self.batch_size or batch
        rng = _rng(seed, epoch)
        shuffled = rng.permutation(count)
        head = min(-epoch * count % batch, count)  # completes the last batch of the previous epoch
        whole = (count - head) // batch * batch
        batches = self._batches(shuffled[head : head + whole], self._ratios(dataset), batch)
        mixed = batches[rng.permutation(len(batches))].ravel()
        return np.concatenate([shuffled[:head], mixed, shuffled[head + whole :]])

    def _ratios(self, dataset: Dataset) -> np.ndarray:
        sizes = _known_sizes(dataset)
        height, width = (self._index(dataset).sizes if sizes is None else sizes).T
        return np.asarray(width / np.maximum(height, 1))

    def _batches(self, indices: np.ndarray, ratios: np.ndarray, batch: int) -> np.ndarray:
        """Return (batches, batch) indices."""
        step = self.window * batch
        chunks = [indices[start : start + step] for start in range(0, len(indices), step)]
        ordered = [chunk[np.argsort(ratios[chunk], kind="stable")] for chunk in chunks]
        return np.concatenate([indices[:0], *ordered]).reshape(-1, batch)


def _known_sizes(dataset: Any) -> np.ndarray | None:
    """Return (N, 2) height and width of each image, if a data set knows them without reading the images."""
    if parts := getattr(dataset, "datasets", None):
        found = [_known_sizes(part) for part in parts]
        known = [sizes for sizes in found if sizes is not None]
        return np.concatenate(known) if len(known) == len(found) else None
    return getattr(dataset, "image_sizes", None)
