"""A sampler: the order in which training draws the samples, a pure function of seed and epoch. It imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segkernel.annotations import PositiveInt
from segkernel.interfaces.data import Dataset


class MyModelSampler:
    """Draw neighbouring samples together: groups are shuffled, the samples of a group stay in order.

    Args:
        group: Samples per group.
    """

    def __init__(self, group: PositiveInt = 4) -> None:
        self.group = group

    def order(self, dataset: Dataset, seed: int, epoch: int, batch: int) -> Sequence[int]:
        """Return the indices of an epoch, each once."""
        groups = np.array_split(np.arange(len(dataset)), range(self.group, len(dataset), self.group))
        shuffled = np.random.default_rng([seed, epoch]).permutation(len(groups))
        return np.concatenate([groups[index] for index in shuffled]).tolist()
