"""Two images in one: CutMix, ClassMix, MixUp.

The other sample is untransformed. ``transforms`` are applied to it first; then it is fitted to the sample: scaled up if
it is smaller, keeping its aspect ratio, and cropped at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from segkernel.annotations import Positive, Probability
from segkernel.errors import UsageError
from segkernel.image import opencv
from segkernel.interfaces.data import Transform
from segkernel.labels import IGNORE
from segkernel.sample import Sample, Size, WeightMap
from segplug_datasets.transforms.checks import need_class_ids, probability
from segplug_datasets.transforms.compose import apply_all, samples_needed
from segplug_datasets.transforms.layers import Layer, composite, require_same_kinds, resize_and_crop, shallow_copy


class Mixing:
    """Base of transforms that mix in one other sample.

    Args:
        prob: Probability of mixing.
        transforms: Applied to the other sample first, for example resizing and cropping as in training; they may not
            need additional samples themselves.
    """

    needs: ClassVar[int] = 1

    def __init__(self, prob: Probability = 0.5, transforms: Sequence[Transform] = ()) -> None:
        if samples_needed(transforms):
            raise UsageError("the transforms of the other sample cannot need additional samples themselves")
        self.prob, self.transforms = probability(prob), list(transforms)

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() >= self.prob:
            return self.unmixed(sample)
        other = apply_all(self.transforms, shallow_copy(more[0]), rng)
        return self.unmixed(sample) if other is None else self.mixed(sample, self.fit(other, sample.size, rng), rng)

    def fit(self, other: Sample, size: Size, rng: np.random.Generator) -> Sample:
        """Return the other sample, fitted to ``size``."""
        return resize_and_crop(other, size, rng)

    def unmixed(self, sample: Sample) -> Sample:
        """Return a sample that is not mixed."""
        return sample

    def mixed(self, sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
        """Return the mixture of the two."""
        raise NotImplementedError


class CutMix(Mixing):
    """Replace a rectangle by that of another image, labels included (Yun et al., 2019; French et al., 2020).

    The rectangle has the image's proportions and covers a share drawn from Beta(alpha, alpha); its centre is uniform
    over the image, and it is clipped at the border.

    Args:
        prob: Probability of mixing.
        alpha: Parameter of the Beta distribution; 1 is uniform.
        transforms: Applied to the other sample first.

    Raises:
        UsageError: When an argument is out of range.
        DataError: When the samples differ in channels, type or fields.
    """

    conformance: ClassVar = {"prob": 1.0}

    def __init__(self, prob: Probability = 0.5, alpha: Positive = 1.0, transforms: Sequence[Transform] = ()) -> None:
        super().__init__(prob, transforms)
        self.alpha = _positive(alpha)

    def mixed(self, sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
        edge = np.sqrt(rng.beta(self.alpha, self.alpha))
        mask = np.zeros(sample.size, bool)
        mask[tuple(_span(length, edge, rng) for length in sample.size)] = True
        return composite([Layer(sample), Layer(other, mask=mask)], sample.size)


def _span(length: int, share: float, rng: np.random.Generator) -> slice:
    middle, reach = rng.integers(length), length * share / 2
    return slice(max(0, round(middle - reach)), round(middle + reach))


class ClassMix(Mixing):
    """Paste half of another image's classes onto the image, labels included (Olsson et al., 2021).

    The pixels of the chosen classes, where the other image has them; pixels labelled 255 are never taken.

    Args:
        prob: Probability of mixing.
        class_ratio: Share of the other image's classes that are taken, rounded up.
        transforms: Applied to the other sample first.

    Raises:
        UsageError: When an argument is out of range.
        DataError: When a sample has no labels, or they differ in channels, type or fields.
    """

    conformance: ClassVar = {"prob": 1.0}

    def __init__(
        self, prob: Probability = 0.5, class_ratio: Probability = 0.5, transforms: Sequence[Transform] = ()
    ) -> None:
        super().__init__(prob, transforms)
        if not 0 < class_ratio <= 1:
            raise UsageError(f"class_ratio must be above 0 and at most 1, not {class_ratio}")
        self.class_ratio = class_ratio

    def mixed(self, sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
        labels = labels_of(other, "ClassMix")
        classes = np.setdiff1d(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)), [IGNORE])
        count = int(np.ceil(len(classes) * self.class_ratio))
        taken = np.zeros(256, bool)
        taken[rng.choice(classes, count, replace=False)] = True
        return composite([Layer(sample), Layer(other, mask=taken[labels])], sample.size)


class MixUp(Mixing):
    """Blend the image with another one (Zhang et al., 2018), with labels that a label map can hold.

    The image's share lambda is drawn from Beta(alpha, alpha), and at least one half. Its labels stay, and the field
    ``weight`` is the share of a pixel's class in the blend: 1 where both images have the same label, the share
    where they differ. Where the image has no label (255) the other's is taken, with the other's share. So a loss that
    applies ``weight``, as those of all heads do, is that of the paper without the term of the weaker label where the
    two disagree. Existing weights of the samples are multiplied in. All other fields are the image's. Unmixed samples
    get weights of 1, so that batches have the same fields.

    Args:
        prob: Probability of mixing.
        alpha: Parameter of the Beta distribution; smaller values blend less.
        transforms: Applied to the other sample first.

    Raises:
        UsageError: When an argument is out of range.
        DataError: When a sample has no labels, or the images differ in channels or type.
    """

    conformance: ClassVar = {"prob": 1.0}
    conformance_exceptions: ClassVar = {"moves-together": "a blend shows the colours of two images"}

    def __init__(self, prob: Probability = 0.5, alpha: Positive = 0.2, transforms: Sequence[Transform] = ()) -> None:
        super().__init__(prob, transforms)
        self.alpha = _positive(alpha)

    def unmixed(self, sample: Sample) -> Sample:
        sample["weight"] = WeightMap(_weights(sample))
        return sample

    def mixed(self, sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
        share = float(rng.beta(self.alpha, self.alpha))
        share = max(share, 1 - share)
        require_same_kinds(sample, other, ())
        mine, theirs = labels_of(sample, "MixUp"), labels_of(other, "MixUp")
        labels = np.where(mine == IGNORE, theirs, mine)
        known = labels != IGNORE
        weights = share * _weights(sample) * (known & (mine == labels))
        weights += (1 - share) * _weights(other) * (known & (theirs == labels))
        blended = opencv().addWeighted(
            np.ascontiguousarray(sample.image), share, np.ascontiguousarray(other.image), 1 - share, 0
        )
        sample.image = blended.reshape(sample.image.shape)
        sample["seg"] = type(sample["seg"])(labels)
        sample["weight"] = WeightMap(weights.astype(np.float32))
        return sample


def labels_of(sample: Sample, name: str) -> np.ndarray:
    """Return the label map of a sample, which transform ``name`` requires."""
    need_class_ids(sample, name)
    labels: np.ndarray = sample["seg"].array
    return labels


def _weights(sample: Sample) -> np.ndarray:
    return sample["weight"].array if "weight" in sample else np.ones(sample.size, np.float32)


def _positive(alpha: float) -> float:
    if alpha <= 0:
        raise UsageError(f"alpha must be above 0, not {alpha}")
    return alpha
