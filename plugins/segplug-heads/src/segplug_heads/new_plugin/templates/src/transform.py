"""A transform: a change of one sample, with random numbers from the given generator only. It imports no torch."""

from __future__ import annotations

import numpy as np

from segkernel.annotations import Probability
from segkernel.sample import Sample


class MyModelTransform:
    """Blend the image with light grey, as fog does; labels stay as they are.

    Args:
        prob: Probability of fog.
        density: Largest share of grey.
    """

    needs = 0

    def __init__(self, prob: Probability = 0.5, density: Probability = 0.5) -> None:
        self.prob, self.density = prob, density

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() < self.prob:
            share = rng.uniform(0, self.density)
            sample.image = ((1 - share) * sample.image + share * 200).astype(sample.image.dtype)
        return sample
