"""Wrappers of a data set: repeated, class-balanced, mixed from several images, indexed by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.annotations import NonNegative, NonNegativeInt, PositiveInt
from segkernel.catalog import display
from segkernel.errors import DataError, UsageError
from segkernel.interfaces.data import Dataset, Transform
from segkernel.labels import Color
from segkernel.sample import Sample
from segplug_datasets.class_index import ClassIndex, class_index
from segplug_datasets.files import FolderDataset
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.labels_hook import LabelsHook
from segplug_datasets.transforms.place import RandomFlip


class _Wrapper:
    """Base of wrappers, with the classes and label values of the wrapped data set."""

    run_hooks = (LabelsHook,)
    _repr_html_ = display

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @property
    def labels(self) -> LabelSpec:
        """Meaning of the values in the label files."""
        return LabelSpec.of_dataset(self.dataset)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.dataset.classes)

    @property
    def palette(self) -> tuple[Color, ...]:
        """One RGB colour per class."""
        return tuple(self.dataset.palette)

    @property
    def data_root(self) -> Any:
        """Root folder of the wrapped data set, if it has one."""
        return getattr(self.dataset, "data_root", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self._place(index)]

    def class_index(self, cache: str | Path | None = None, workers: int | None = None) -> ClassIndex:
        """Return the classes of each sample; see `segplug_datasets.class_index`."""
        return class_index(self.dataset, cache, workers)

    def _place(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return index % len(self)


class _Chosen(_Wrapper):
    """Samples of a data set by index, in any order, possibly repeated."""

    def __init__(self, dataset: Dataset, indices: np.ndarray) -> None:
        super().__init__(dataset)
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.indices[self._place(index)])]

    def class_index(self, cache: str | Path | None = None, workers: int | None = None) -> ClassIndex:
        return super().class_index(cache, workers).take(self.indices)


class RepeatDataset(_Chosen):
    """A data set repeated several times, for longer epochs; MMEngine's.

    Args:
        dataset: The data set to repeat.
        times: Repetitions of each sample per epoch, 1 or more.

    Raises:
        UsageError: When ``times`` is below 1.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        return [{"dataset": _example(folder), "times": 3}]

    def __init__(self, dataset: Dataset, times: PositiveInt) -> None:
        if times < 1:
            raise UsageError(f"times must be 1 or more, not {times}")
        super().__init__(dataset, np.tile(np.arange(len(dataset)), times))
        self.times = times


class ClassBalancedDataset(_Chosen):
    """A data set in which images of rare classes occur several times; MMEngine's.

    An image is repeated max(1, sqrt(oversample_thr / f)) times, rounded up, f being the share of images with its rarest
    class (repeat factor sampling: Gupta, Dollar and Girshick, LVIS, 2019). This makes epochs longer; the sampler
    ``BalancedSampler`` keeps their length.

    Args:
        dataset: The data set to balance, with label maps.
        oversample_thr: Share of images, above 0 and up to 1, below which a class is repeated.
        min_pixels: Minimum pixels for a class to count as present in an image.
        cache: Folder of the class index; None stores it next to the data.

    Raises:
        UsageError: When ``oversample_thr`` is outside that range.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        return [{"dataset": _example(folder), "oversample_thr": 1.0}]

    def __init__(
        self,
        dataset: Dataset,
        oversample_thr: NonNegative,
        min_pixels: NonNegativeInt = 1,
        cache: str | Path | None = None,
    ) -> None:
        present = class_index(dataset, cache).pixels >= max(min_pixels, 1)
        times = np.ceil(repeat_factors(present, oversample_thr)).astype(np.int64)
        super().__init__(dataset, np.repeat(np.arange(len(dataset)), times))
        self.oversample_thr = oversample_thr


def repeat_factors(present: np.ndarray, threshold: float) -> np.ndarray:
    """Return the repeat factor of each image, (N,) float64 of at least 1, from its classes (N, K) bool.

    Raises:
        UsageError: When the threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"oversample_thr must be above 0 and at most 1, not {threshold}")
    shares = present.mean(0)
    factors = np.sqrt(threshold / np.where(shares > 0, shares, 1))
    return np.where(present, factors, 1).max(1, initial=1)


class MultiImageMixDataset(_Wrapper):
    """A data set whose samples go through mixing transforms (mosaic, MixUp); MMSegmentation's.

    ``data.train_transforms`` also accepts such transforms; this class mixes within a part of a larger set. Random
    numbers come from numpy's global generator, which the loader seeds for every sample, so that training is
    reproducible with any number of workers.

    Args:
        dataset: Source of all samples.
        pipeline: Transforms, in order.
        skip_type_keys: Class names of transforms to skip.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        return [{"dataset": _example(folder), "pipeline": [RandomFlip(prob=1.0)]}]

    def __init__(
        self, dataset: Dataset, pipeline: Sequence[Transform], skip_type_keys: Sequence[str] | None = None
    ) -> None:
        super().__init__(dataset)
        skipped = set(skip_type_keys or ())
        self.pipeline = [transform for transform in pipeline if type(transform).__name__ not in skipped]

    def __getitem__(self, index: int) -> Sample:
        from segkernel.data import apply_transforms

        rng = np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint64))
        sample = super().__getitem__(index)
        path = sample.meta.get("path")
        mixed = apply_transforms(self.pipeline, sample, rng, lambda: self.dataset[int(rng.integers(len(self)))])
        if mixed is None:
            raise DataError("a transform of the pipeline of MultiImageMixDataset rejected it", path)
        return mixed


class IndexedDataset(_Wrapper):
    """Adds a class index of image cells to samples, for ``ClassAwareCrop`` and the samplers.

    ``meta["class_cells"]`` is (8, 8, bytes) uint8; see `segplug_datasets.class_index.ClassIndex`.

    Args:
        dataset: Data set with label maps.
        cache: Folder of the class index; None stores it next to the data.
        workers: Processes that build the index the first time; None uses up to eight.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        return [{"dataset": _example(folder)}]

    def __init__(
        self, dataset: Dataset, cache: str | Path | None = None, workers: NonNegativeInt | None = None
    ) -> None:
        super().__init__(dataset)
        self._index = class_index(dataset, cache, workers)

    def __getitem__(self, index: int) -> Sample:
        place = self._place(index)
        sample = self.dataset[place]
        sample.meta["class_cells"] = self._index.cells[place]
        return sample

    def class_index(self, cache: str | Path | None = None, workers: int | None = None) -> ClassIndex:
        return self._index


def _example(folder: Path) -> FolderDataset:
    return FolderDataset(**FolderDataset.conformance(folder)[0])
