"""Transforms composed of others, as mmcv's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from segkernel.annotations import Probability
from segkernel.errors import UsageError
from segkernel.interfaces.data import Transform
from segkernel.sample import Sample
from segplug_datasets.transforms.checks import probability


class RandomApply:
    """Apply transforms in order, or leave the sample unchanged.

    Args:
        transforms: Applied in this order; additional samples that they need are drawn for each.
        prob: Probability of applying them.

    Raises:
        UsageError: When there is none, or ``prob`` is not a probability.
    """

    conformance: ClassVar = {"transforms": [{"type": "RandomFlip", "prob": 1.0}, {"type": "CLAHE"}], "prob": 0.5}

    def __init__(self, transforms: Sequence[Transform], prob: Probability = 0.5) -> None:
        if not transforms:
            raise UsageError("RandomApply needs at least one transform")
        self.transforms, self.prob = list(transforms), probability(prob)
        self.needs = samples_needed(self.transforms)

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample | None:
        return apply_all(self.transforms, sample, rng, more) if rng.random() < self.prob else sample


class RandomChoice:
    """Apply one of several transforms, or sequences of transforms.

    Args:
        transforms: Choices, each a transform or a list of transforms applied in order.
        prob: Probability of each, summing to 1; equal when None.

    Raises:
        UsageError: When there is none, or ``prob`` does not fit.
    """

    conformance: ClassVar = {
        "transforms": [
            [{"type": "RandomFlip", "prob": 1.0}, {"type": "CLAHE"}],
            {"type": "RandomCrop", "crop_size": [64, 80]},
        ],
        "prob": [0.5, 0.5],
    }

    def __init__(
        self, transforms: Sequence[Transform | Sequence[Transform]], prob: Sequence[Probability] | None = None
    ) -> None:
        if not transforms:
            raise UsageError("RandomChoice needs at least one transform")
        if prob is not None and (len(prob) != len(transforms) or min(prob) < 0 or abs(sum(prob) - 1) > 1e-6):
            raise UsageError(f"prob must have one number per choice, {len(transforms)}, with sum 1, not {list(prob)}")
        self.choices = [list(one) if isinstance(one, Sequence) else [one] for one in transforms]
        self.prob = prob
        self.needs = max(map(samples_needed, self.choices))

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample | None:
        shares = np.cumsum(self.prob if self.prob is not None else np.full(len(self.choices), 1 / len(self.choices)))
        choice = min(int(np.searchsorted(shares, rng.random(), side="right")), len(self.choices) - 1)
        return apply_all(self.choices[choice], sample, rng, more)


def samples_needed(transforms: Iterable[Transform]) -> int:
    """Return how many additional samples a sequence of transforms needs."""
    return sum(getattr(transform, "needs", 0) for transform in transforms)


def apply_all(
    transforms: Iterable[Transform], sample: Sample, rng: np.random.Generator, more: Sequence[Sample] = ()
) -> Sample | None:
    """Apply transforms in order, passing ``more`` to those that need it; None when one rejects the sample."""
    result: Sample | None = sample
    left = iter(more)
    for transform in transforms:
        if result is not None:
            result = transform(result, rng, *(next(left) for _ in range(getattr(transform, "needs", 0))))
    return result
