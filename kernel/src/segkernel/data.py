"""From a data set to batches: draw order, transforms and workers; batches are a pure function of (seed, position).

    loader = Loader(dataset, transforms=[...], micro_batch=4, workers=2, seed=0)
    for batch in loader.train_batches(position=0): ...      # endless
    for batch in loader.eval_batches(): ...                 # every sample once

A training sample's random generator comes from the seed and the sample's position in the global draw order, so an
augmented sample is the same for any number of workers, ranks or restarts.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from segkernel.errors import DataError, SegKernelError, TrainingError, UsageError
from segkernel.interfaces.data import Dataset, Sampler, Transform
from segkernel.loadtimes import SECONDS, timed
from segkernel.opencv import opencv
from segkernel.randomness import random_state, seed_everything, set_random_state
from segkernel.sample import Batch, Sample, Targets, as_targets, collate

log = logging.getLogger(__name__)

TRIES = 10
"""Number of replacements drawn for an unusable sample before training stops."""

_ORDER, _SAMPLE, _EVALUATION = 0, 1, 2  # streams of random numbers


def sample_rng(seed: int, stream: int, position: int) -> np.random.Generator:
    """Return the generator of one draw."""
    return np.random.default_rng(np.random.SeedSequence((seed, stream, position)))


def draw_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """Return the order in which epoch ``epoch`` visits ``length`` samples: a pure function of its arguments."""
    return sample_rng(seed, _ORDER, epoch).permutation(length)


def apply_transforms(
    transforms: Iterable[Transform], sample: Sample, rng: np.random.Generator, draw: Callable[[], Sample] | None = None
) -> Sample | None:
    """Apply transforms in turn; ``draw`` returns the further samples that some need. None if one rejects the sample."""
    for transform in transforms:
        needs = getattr(transform, "needs", 0)
        if needs and draw is None:
            raise UsageError(f"{type(transform).__name__} needs {needs} more samples, available in training only")
        more = [draw() for _ in range(needs) if draw]
        with timed(type(transform).__name__):
            changed = transform(sample, rng, *more)
        if changed is None:
            return None
        sample = changed
    with timed("resample"):  # geometry is evaluated lazily, here at the latest
        return sample.carry_out()


def apply_eval_transforms(transforms: Iterable[Transform], sample: Sample, rng: np.random.Generator) -> Sample:
    """Apply transforms that may resize the image but not move it, as predictions are resized back to it.

    Raises:
        DataError: When one rejects the sample, or changes its geometry other than by a resize.
    """
    changed = apply_transforms(transforms, sample, rng)
    path = sample.meta.get("path", sample.meta.get("name"))
    if changed is None:
        raise DataError("a transform of data.eval_transforms rejected it, which is not allowed in evaluation", path)
    if changed.moved:
        raise DataError(f"data.eval_transforms may only resize, not {changed.moved.lower()}", path)
    return changed


@dataclass
class Loader:
    """A data set, its transforms, and how its samples are loaded.

    Args:
        dataset: Samples, untransformed.
        transforms: Applied to each sample, in order.
        micro_batch: Samples per batch on one device.
        workers: Worker processes that load samples; 0 loads them in this process.
        seed: Seed of the draw order and the augmentation.
        shuffle: Whether training draws in a random order.
        start_method: How workers start; ``spawn`` is safe everywhere, ``fork`` starts faster, None is Python's default.
        opencv_threads: OpenCV's threads in each worker; 0 runs it sequentially.
        persistent_workers: Keep workers between two evaluations.
        prefetch: Batches each worker prepares ahead.
        pin_memory: Return batches in pinned memory (for CUDA).
        sampler: The draw order of training, in place of ``shuffle``.

    Raises:
        UsageError: When a number is out of range.
        DataError: When the data set is empty.
    """

    dataset: Dataset
    transforms: Sequence[Transform] = ()
    micro_batch: int = 1
    workers: int = 0
    seed: int = 0
    shuffle: bool = True
    start_method: Literal["fork", "spawn", "forkserver"] | None = None
    opencv_threads: int = 0
    persistent_workers: bool = True
    prefetch: int = 2
    pin_memory: bool = False
    sampler: Sampler | None = None
    _evaluation: DataLoader[Any] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.micro_batch < 1 or self.workers < 0:
            raise UsageError(f"micro_batch {self.micro_batch} and workers {self.workers}: need at least 1 and 0")
        if not len(self.dataset):
            raise DataError("the data set is empty", getattr(self.dataset, "data_root", None))

    def train_batches(self, position: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield micro-batches endlessly, starting at ``position`` (samples consumed by all ranks together).

        Raises:
            DataError: When ten draws in a row are unusable.
        """
        draws = self._draws(position + rank * self.micro_batch, world_size * self.micro_batch)
        samples = _Samples(partial(_training_sample, self.dataset, self.transforms, self.seed))
        for batch in self._torch_loader(samples, draws, _collate_training, persistent=False):
            for message in batch.replaced:
                log.warning("replaced a sample: %s", message)
            yield batch

    def _draws(self, start: int, step: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the (position, index) pairs of this rank's batches, which begin at every ``step``-th position."""
        order, length = lru_cache(maxsize=2)(self._order), len(self.dataset)
        for first in itertools.count(start, step):
            positions = range(first, first + self.micro_batch)
            yield [(position, int(order(position // length)[position % length])) for position in positions]

    def _order(self, epoch: int) -> Sequence[int]:
        """Return the indices of an epoch, in draw order."""
        length = len(self.dataset)
        if self.sampler is None:
            return draw_order(self.seed, epoch, length) if self.shuffle else range(length)  # type: ignore[return-value]
        order = self.sampler.order(self.dataset, self.seed, epoch, self.micro_batch)
        if len(order) != length:
            raise UsageError(f"{type(self.sampler).__name__} draws {len(order)} of {length} samples in an epoch")
        return order

    def eval_batches(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield this rank's share of the samples, each once, with ``truths`` at the original size.

        Raises:
            DataError: At the end, naming all samples that could not be read; nothing is skipped silently.
        """
        if self._evaluation is None:
            indices = range(rank, len(self.dataset), world_size)
            chunks = [indices[i : i + self.micro_batch] for i in range(0, len(indices), self.micro_batch)]
            samples = _Samples(partial(_evaluation_sample, self.dataset, self.transforms, self.seed))
            self._evaluation = self._torch_loader(samples, chunks, _collate_evaluation, self.persistent_workers)
        errors: list[Exception] = []
        for batches, failed in self._evaluation:
            errors += failed
            yield from batches
        if errors:
            listed = "\n    ".join(str(error) for error in errors[:20])
            more = f"\n    and {len(errors) - 20} more" if len(errors) > 20 else ""
            raise DataError(f"{len(errors)} samples could not be evaluated:\n    {listed}{more}")

    def close(self) -> None:
        """Stop the workers that are kept between evaluations."""
        self._evaluation = None

    def _torch_loader(self, samples: Any, sampler: Any, collate_fn: Any, persistent: bool) -> DataLoader[Any]:
        method = self.start_method or torch.multiprocessing.get_start_method()
        return DataLoader(
            samples,
            batch_sampler=sampler,
            collate_fn=collate_fn,
            num_workers=self.workers,
            multiprocessing_context=method if self.workers else None,
            worker_init_fn=partial(_start_worker, self.opencv_threads, os.getpid(), method != "forkserver"),
            persistent_workers=persistent and self.workers > 0,
            prefetch_factor=self.prefetch if self.workers else None,
            pin_memory=self.pin_memory,
            # Creating an iterator draws a seed; with its own generator the global one is left unchanged.
            generator=torch.Generator().manual_seed(self.seed),
        )


@dataclass(frozen=True)
class _Samples:
    """The data set that torch's loader indexes by batch; ``load`` returns the sample for a key of the batch sampler."""

    load: Callable[[Any], Any]

    def __getitems__(self, keys: Sequence[Any]) -> list[Any]:
        SECONDS.clear()
        state = random_state()  # without workers, training uses the same generators
        try:
            return [self.load(key := each) for each in keys]
        except (SegKernelError, OSError):
            raise
        except Exception as error:
            index = np.ravel(key)[-1]  # training keys are (position, index)
            raise TrainingError(f"sample {index}: {type(error).__name__}: {error}\n    use --traceback") from error
        finally:
            set_random_state(state)


def _training_sample(dataset: Dataset, transforms: Sequence[Transform], seed: int, draw: tuple[int, int]) -> Sample:
    """Return the transformed sample of (position, index), or another one when that is unusable."""
    position, index = draw
    rng = sample_rng(seed, _SAMPLE, position)
    replaced: list[str] = []

    def read_another() -> Sample:
        return _read(dataset, int(rng.integers(len(dataset))))

    seed_everything(drawn := int(rng.integers(2**32)), devices=False)  # transforms may draw from global generators
    for _ in range(TRIES):
        try:
            sample = apply_transforms(transforms, _read(dataset, index), rng, read_another)
            problem = f"sample {index} was rejected by a transform"
        except (DataError, OSError) as error:
            sample, problem = None, str(error)
        if sample is not None:
            sample.replaced, sample.meta["seed"] = replaced, drawn
            return sample
        replaced.append(problem)
        index = int(rng.integers(len(dataset)))
    raise DataError(f"{TRIES} samples in a row are unusable:\n    " + "\n    ".join(dict.fromkeys(replaced)))


def _evaluation_sample(
    dataset: Dataset, transforms: Sequence[Transform], seed: int, index: int
) -> tuple[Sample, Targets] | Exception:
    """Return the transformed sample and its annotations at the original size, or the error that makes it unusable."""
    rng = sample_rng(seed, _EVALUATION, index)
    try:
        sample = _read(dataset, index)
        truth = as_targets(sample)
        seed_everything(int(rng.integers(2**32)), devices=False)
        return apply_eval_transforms(transforms, sample, rng), truth
    except (DataError, OSError) as error:
        return error


def _read(dataset: Dataset, index: int) -> Sample:
    """Return a sample with its index, name and original size set."""
    with timed("decode"):
        sample = dataset[index]
    sample.meta = {"index": index, "name": str(index), **sample.meta}
    sample.original_size = sample.original_size or sample.size
    return sample


def _collate_training(samples: Sequence[Sample]) -> Batch:
    with timed("collate"):
        batch = collate(samples)
    batch.seconds = SECONDS.copy()
    return batch


def _collate_evaluation(results: list[tuple[Sample, Targets] | Exception]) -> tuple[list[Batch], list[Exception]]:
    """Batch samples of equal size, so that nothing is padded and batching does not change the metrics."""
    groups: dict[Any, list[tuple[Sample, Targets]]] = {}
    for result in results:
        if not isinstance(result, Exception):
            groups.setdefault(result[0].image.shape, []).append(result)
    batches = [replace(collate([s for s, _ in group]), truths=[t for _, t in group]) for group in groups.values()]
    return batches, [result for result in results if isinstance(result, Exception)]


SIGTERM_GRACE = 60
"""Seconds a worker continues after a SIGTERM from elsewhere, so that its main process can finish its step and save."""


def _start_worker(opencv_threads: int, parent: int, is_child: bool, worker: int) -> None:
    """Initialise a worker: only the main process handles signals to the process group.

    ``parent`` is the process it works for, ``is_child`` whether that process started it directly.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        # A batch system sends SIGTERM to workers as well. Only a thread that waits for a signal learns its sender.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_watch, args=(parent, is_child), daemon=True).start()
    opencv().setNumThreads(opencv_threads)


def _watch(parent: int, is_child: bool) -> None:
    """Exit on SIGTERM from the parent or when it is gone: torch misses one killed while the worker starts."""
    while not is_child or os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, 1)
        if received is not None and received.si_pid == parent:
            break
        if received is not None:
            signal.alarm(SIGTERM_GRACE)
    os._exit(128 + signal.SIGTERM)
