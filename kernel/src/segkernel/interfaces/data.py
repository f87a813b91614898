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
    """Indexed samples, untransformed. Any picklable object with these members will do.

    A data set for a task other than multiclass has an attribute ``labels``, its `Labels`; one without annotations
    returns samples without the field ``seg``. An attribute ``run_hooks`` lists hook classes, constructed without
    arguments: every run with the set gets one of each, unless it already has a hook of that class. A set whose images
    are not RGB files has a class method ``image_reader``, which takes some of the constructor's arguments and returns
    the function by which `Predictor` reads a path or an array: it returns the image (H, W, C) as in a sample, or a list
    of them, the slices of a volume. If its attribute ``takes_pairs`` is true, it also takes a tuple of two images and
    returns a sample with both.
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

    The loader passes it ``needs`` further untransformed samples (mosaic, mix-up). It may modify the sample it is given.
    Returning None rejects the sample: the loader draws another in its place.
    """

    needs: int

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample | None: ...


@runtime_checkable
class Sampler(Protocol):
    """The draw order of training: a pure function, so that resuming and the number of ranks do not change it."""

    def order(self, dataset: Dataset, seed: int, epoch: int, batch: int) -> Sequence[int]:
        """Return the indices of an epoch's samples, ``len(dataset)`` of them; they may repeat.

        Args:
            dataset: The training set, the same object at each call.
            seed: Seed of the run.
            epoch: Counted from 0.
            batch: Samples per micro-batch: positions ``k * batch`` to ``(k + 1) * batch - 1`` of the sequence of all
                epochs form one.
        """
        ...


class DeviceStep(Protocol):
    """An operation on the device with parameters that a transform drew for one sample; see ``sample.device_steps``.

    It must be picklable.
    """

    @staticmethod
    def together(images: Tensor, steps: Sequence[Any]) -> Tensor:
        """Return a batch of images (N, C, H, W) float32, not yet normalised, each changed by its own step.

        ``steps`` are of this class, or None for an image without one; ``images`` is not modified.
        """
        ...


@runtime_checkable
class Metric(Protocol):
    """Named numbers from predictions and labels: streaming, and mergeable across processes.

    ``update`` is called once per image with its `Prediction` and its `Targets` at the image's original size; both
    hold tensors on the run's device. An instance is copied before each evaluation.
    A metric may also offer ``table() -> str``, printed after an evaluation. Attributes that are None are set before it:
    ``classes``, the names; ``labels``, the `Labels`; ``split``, ``val`` or ``test``; ``work_dir``, the run's directory.
    """

    def update(self, prediction: Prediction, target: Targets) -> None: ...

    def merge(self, other: Any) -> None: ...

    def compute(self) -> dict[str, float]: ...
