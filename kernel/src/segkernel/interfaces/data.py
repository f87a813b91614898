"""Contracts of the data side, without torch: data sets, transforms, samplers, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from segkernel.labels import Color
    from segkernel.sample import Prediction, Sample, Targets


@runtime_checkable
class Dataset(Protocol):
    """Indexed samples, untransformed. Anything with these members will do; it must survive pickling.

    One for another task than multiclass says so by ``labels``, its `Labels`; one without annotations returns samples
    without the field ``seg``. An attribute ``run_hooks`` names classes of hooks, made without arguments, that every run
    with the set gets unless it has one of that class. A set of other images than RGB files has a class method
    ``image_reader`` that takes some of the constructor's arguments and returns a function of a path or an array: the
    image (H, W, C) as in a sample, or a list of them, slices of a volume. `Predictor` reads by it. One whose attribute
    ``takes_pairs`` is true takes a tuple of two and returns a sample with both.
    """

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def palette(self) -> Sequence[Color]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Return sample ``index``; IndexError outside the range, `DataError` when its files are unusable."""
        ...


@runtime_checkable
class Transform(Protocol):
    """A pure function of a sample and a random generator.

    ``needs`` more untransformed samples are handed to it by the loader (mosaic, mix-up). It may change the sample it
    is given. Returning None rejects the sample: the loader draws another in its place.
    """

    needs: int

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample | None: ...


@runtime_checkable
class Sampler(Protocol):
    """The draw order of training: a pure function, so that a resumed run and many ranks draw what one run would."""

    def order(self, dataset: Dataset, seed: int, epoch: int, batch: int) -> Sequence[int]:
        """Return the indices that an epoch visits, as many as the data set has samples; they may repeat.

        Args:
            dataset: The training set, the same one each time.
            seed: Of the run.
            epoch: Counted from 0.
            batch: Samples of a micro-batch: those at positions ``k * batch`` to ``(k + 1) * batch - 1`` of the whole
                sequence, which starts with epoch 0, go together.
        """
        ...


class DeviceStep(Protocol):
    """What a transform drew for one sample and leaves to the device, in the list ``sample.device_steps``.

    It must survive pickling.
    """

    @staticmethod
    def together(images: Tensor, steps: Sequence[Any]) -> Tensor:
        """Return a batch of images (N, C, H, W) float32, not yet normalised, with each changed by its own step.

        ``steps`` are of this class, or None for an image that has none; the batch given stays as it is.
        """
        ...


@runtime_checkable
class Metric(Protocol):
    """Predictions and labels to named numbers: streaming, and mergeable across processes.

    ``update`` is called once per image with its `Prediction` and its `Targets` at the image's original size; both
    hold tensors, on whatever device the run uses. An instance is copied before each evaluation.
    A metric may also offer ``table() -> str``, printed after an evaluation.
    """

    def update(self, prediction: Prediction, target: Targets) -> None: ...

    def merge(self, other: Any) -> None: ...

    def compute(self) -> dict[str, float]: ...
