"""From a data set to batches: draw order, transforms, workers, all a pure function of (seed, position).

    loader = Loader(dataset, transforms=[...], micro_batch=4, workers=2, seed=0)
    for batch in loader.train_batches(position=0): ...      # endless
    for batch in loader.eval_batches(): ...                 # every sample once

A training sample's random generator comes from the seed and the sample's position in the global draw order, so an
augmented sample is the same whatever the number of workers, ranks or restarts.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from segkernel.errors import DataError, UsageError
from segkernel.interfaces.data import Dataset, Sampler, Transform
from segkernel.loadtimes import FILES, timed
from segkernel.sample import Batch, Sample, Targets, as_targets, collate

log = logging.getLogger(__name__)

TRIES = 10
"""How many samples are drawn in place of an unusable one before training stops."""

_ORDER, _SAMPLE, _EVALUATION = 0, 1, 2  # streams: what a random number is for


def sample_rng(seed: int, stream: int, position: int) -> np.random.Generator:
    """Return the generator of one draw."""
    return np.random.default_rng(np.random.SeedSequence((seed, stream, position)))


@lru_cache(maxsize=4)
def draw_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """Return the order in which epoch ``epoch`` visits ``length`` samples: a pure function of its arguments."""
    return sample_rng(seed, _ORDER, epoch).permutation(length)


def apply_transforms(
    transforms: Iterable[Transform],
    sample: Sample,
    rng: np.random.Generator,
    draw: Callable[[], Sample] | None = None,
    seconds: Counter[str] | None = None,
) -> Sample | None:
    """Apply transforms in turn; ``draw`` gives the further samples that some need. None when one rejects the sample.

    What each one takes is added to ``seconds``, under the name of its class.
    """
    result: Sample | None = sample
    seconds = Counter() if seconds is None else seconds
    for transform in transforms:
        needs = getattr(transform, "needs", 0)
        if needs and draw is None:
            raise UsageError(f"{type(transform).__name__} needs {needs} more samples and cannot be used here")
        more = [draw() for _ in range(needs) if draw]
        with timed(seconds, type(transform).__name__):
            result = transform(result, rng, *more)  # type: ignore[arg-type]
        if result is None:
            return None
    with timed(seconds, "resample"):  # geometry is planned by the transforms, and carried out here at the latest
        return result.carry_out() if result is not None else None


def apply_eval_transforms(transforms: Iterable[Transform], sample: Sample, rng: np.random.Generator) -> Sample:
    """Apply transforms that leave the whole image in its place: predictions are resized back to it.

    Raises:
        DataError: When one rejects the sample, or does more to its geometry than to resize it.
    """
    changed = apply_transforms(transforms, sample, rng)
    path = sample.meta.get("path", sample.meta.get("name"))
    if changed is None:
        raise DataError("a transform of data.eval_transforms rejected it, which an evaluation cannot allow", path)
    if changed.moved:
        kind = changed.moved.lower()
        raise DataError(f"data.eval_transforms may resize, but not {kind}: predictions would be out of place", path)
    return changed


@dataclass
class Loader:
    """A data set, what is done to its samples, and how they are brought.

    Args:
        dataset: Samples, untransformed.
        transforms: Applied to each sample, in order.
        micro_batch: Samples per batch on one device.
        workers: Processes that read and transform; 0 does it in this one.
        seed: Of order and augmentation.
        shuffle: Whether training draws in a random order.
        start_method: How workers start; ``spawn`` is safe everywhere, ``fork`` starts faster, None is the system's.
        opencv_threads: Threads of OpenCV in each worker.
        persistent_workers: Keep workers between two evaluations.
        prefetch: Batches each worker prepares ahead.
        pin_memory: Hand batches over in page-locked memory (for CUDA).
        sampler: The draw order of training, in place of ``shuffle``.
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

    def __len__(self) -> int:
        return len(self.dataset)

    def train_batches(self, position: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield micro-batches without end, from ``position`` (samples all ranks have consumed) on.

        Raises:
            DataError: When the data set is empty, or ten draws in a row are unusable.
        """
        if not len(self.dataset):
            raise DataError("the training set is empty", getattr(self.dataset, "data_root", None))
        order = lru_cache(maxsize=2)(self._order)
        draws = _Draws(len(self.dataset), order, self.micro_batch, position, rank, world_size)
        drawn = _TrainingSamples(self.dataset, self.transforms, self.seed)
        for batch in self._torch_loader(drawn, draws, _collate_training, persistent=False):
            for message in batch.replaced:
                log.warning("replaced a sample: %s", message)
            yield batch

    def _order(self, epoch: int) -> Sequence[int]:
        """Return the indices that an epoch visits."""
        length = len(self.dataset)
        if self.sampler is None:
            return draw_order(self.seed, epoch, length) if self.shuffle else range(length)  # type: ignore[return-value]
        order = self.sampler.order(self.dataset, self.seed, epoch, self.micro_batch)
        if len(order) != length:
            raise UsageError(f"{type(self.sampler).__name__} draws {len(order)} of {length} samples in an epoch")
        return order

    def eval_batches(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield this rank's share of the samples, each once and in order, with ``truths`` at the original size.

        Raises:
            DataError: At the end, naming all samples that could not be read; nothing is skipped silently.
        """
        if not len(self.dataset):
            raise DataError("the evaluation set is empty", getattr(self.dataset, "data_root", None))
        if self._evaluation is None:
            indices = range(rank, len(self.dataset), world_size)
            chunks = [list(indices[i : i + self.micro_batch]) for i in range(0, len(indices), self.micro_batch)]
            samples = _EvaluationSamples(self.dataset, self.transforms, self.seed)
            self._evaluation = self._torch_loader(samples, chunks, _collate_evaluation, self.persistent_workers)
        errors: list[DataError] = []
        for batches, failed in self._evaluation:
            errors += failed
            yield from batches
        if errors:
            listed = "\n    ".join(str(error) for error in errors[:20])
            more = f"\n    and {len(errors) - 20} more" if len(errors) > 20 else ""
            raise DataError(f"{len(errors)} samples could not be evaluated:\n    {listed}{more}")

    def close(self) -> None:
        """End the workers that are kept between evaluations."""
        self._evaluation = None

    def _torch_loader(self, samples: Any, sampler: Any, collate_fn: Any, persistent: bool) -> DataLoader[Any]:
        return DataLoader(
            samples,
            batch_sampler=sampler,
            collate_fn=collate_fn,
            num_workers=self.workers,
            multiprocessing_context=self.start_method if self.workers else None,
            worker_init_fn=_WorkerStart(self.opencv_threads, os.getpid(), self.start_method != "forkserver"),
            persistent_workers=persistent and self.workers > 0,
            prefetch_factor=self.prefetch if self.workers else None,
            pin_memory=self.pin_memory,
            # Creating an iterator draws a seed; its own generator keeps torch's global one as it is.
            generator=torch.Generator().manual_seed(self.seed),
        )


@dataclass(frozen=True)
class _Draws:
    """The endless sequence of one rank's batches as lists of (position, index)."""

    length: int
    order: Callable[[int], Sequence[int]]
    micro_batch: int
    position: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start = self.position + self.rank * self.micro_batch
        while True:
            yield [(p, self._index(p)) for p in range(start, start + self.micro_batch)]
            start += self.micro_batch * self.world_size

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, self.length)
        return int(self.order(epoch)[place])


class _TrainingSamples(TorchDataset[Sample]):
    """Maps (position, index) to a transformed sample, or to another one when that is unusable."""

    def __init__(self, dataset: Dataset, transforms: Sequence[Transform], seed: int) -> None:
        self.dataset, self.transforms, self.seed = dataset, transforms, seed

    def __getitems__(self, draws: Sequence[tuple[int, int]]) -> list[Sample]:
        """Return the samples of a batch: torch asks for them at once."""
        with _global_generators_kept():
            return [self[draw] for draw in draws]

    def __getitem__(self, draw: tuple[int, int]) -> Sample:
        position, index = draw
        rng = sample_rng(self.seed, _SAMPLE, position)
        replaced: list[str] = []
        seconds: Counter[str] = Counter(read=0, decode=0)  # the first two in any report

        def read(index: int | None = None) -> Sample:
            return self._read(int(rng.integers(len(self.dataset))) if index is None else index, seconds)

        _seed_global(rng)
        for _ in range(TRIES):
            try:
                sample = apply_transforms(self.transforms, read(index), rng, read, seconds)
                problem = f"sample {index} was rejected by a transform"
            except (DataError, OSError) as error:
                sample, problem = None, str(error)
            if sample is not None:
                sample.replaced, sample.seconds = replaced, seconds
                return sample
            replaced.append(problem)
            index = int(rng.integers(len(self.dataset)))
        raise DataError(f"{TRIES} samples in a row are unusable:\n    " + "\n    ".join(dict.fromkeys(replaced)))

    def _read(self, index: int, seconds: Counter[str]) -> Sample:
        read = FILES["read"]
        with timed(seconds, "decode"):
            sample = self.dataset[index]
        spent = FILES["read"] - read
        seconds.update(read=spent, decode=-spent)
        return _described(sample, index)


class _EvaluationSamples(TorchDataset[Any]):
    """Maps an index to (transformed sample, its annotations at the original size), or to the error."""

    def __init__(self, dataset: Dataset, transforms: Sequence[Transform], seed: int) -> None:
        self.dataset, self.transforms, self.seed = dataset, transforms, seed

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Sample, Targets] | DataError]:
        """Return the samples of a batch: torch asks for them at once."""
        with _global_generators_kept():
            return [self[index] for index in indices]

    def __getitem__(self, index: int) -> tuple[Sample, Targets] | DataError:
        rng = sample_rng(self.seed, _EVALUATION, index)
        try:
            sample = _described(self.dataset[index], index)
            truth = as_targets(sample)
            _seed_global(rng)
            return apply_eval_transforms(self.transforms, sample, rng), truth
        except (DataError, OSError) as error:
            return error if isinstance(error, DataError) else DataError(str(error))


def _described(sample: Sample, index: int) -> Sample:
    sample.meta.setdefault("index", index)
    sample.meta.setdefault("name", str(index))
    sample.original_size = sample.original_size or sample.size
    return sample


def _collate_training(samples: Sequence[Sample]) -> Batch:
    seconds: Counter[str] = Counter()
    with timed(seconds, "collate"):
        batch = collate(samples)
    batch.seconds.update(seconds)
    return batch


def _collate_evaluation(results: list[tuple[Sample, Targets] | DataError]) -> tuple[list[Batch], list[DataError]]:
    """Put samples of one size together, so that nothing is padded and batching changes no figure."""
    groups: dict[Any, list[tuple[Sample, Targets]]] = {}
    for result in results:
        if not isinstance(result, DataError):
            groups.setdefault(result[0].image.shape, []).append(result)
    batches = [replace(collate([s for s, _ in group]), truths=[t for _, t in group]) for group in groups.values()]
    return batches, [result for result in results if isinstance(result, DataError)]


def on_device(batches: Iterable[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Yield batches on a device; what comes from page-locked memory is copied while this process goes on."""
    for batch in batches:
        yield batch.to(device, non_blocking=True)


SIGTERM_GRACE = 60
"""Seconds that a worker serves on after somebody else's SIGTERM, so that the main process can end its step and save."""


@dataclass(frozen=True)
class _WorkerStart:
    """Runs first in every worker: one thread each, and signals to the process group are for the main process.

    ``parent`` is the process it works for, ``is_child`` whether that has started it itself.
    """

    opencv_threads: int
    parent: int
    is_child: bool

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):
            # A batch system sends SIGTERM to workers as well. Only a thread that waits for it is told who sent it.
            signal.signal(signal.SIGTERM, _leave_later)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_await_sigterm, args=(self.parent,), daemon=True).start()
        if self.is_child:
            threading.Thread(target=_leave_with, args=(self.parent,), daemon=True).start()
        torch.set_num_threads(1)
        import cv2

        cv2.setNumThreads(self.opencv_threads)


def _await_sigterm(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        _leave_later()
    os._exit(128 + signal.SIGTERM)


def _leave_later(*_: object) -> None:
    timer = threading.Timer(SIGTERM_GRACE, os._exit, (128 + signal.SIGTERM,))
    timer.daemon = True
    timer.start()


def _leave_with(parent: int) -> None:
    """End this worker when the process it works for is gone: torch's own watch misses one killed while it starts."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _seed_global(rng: np.random.Generator) -> None:
    """Seed the generators of `random`, numpy and torch, which transforms of others may use."""
    seed = int(rng.integers(2**32))
    random.seed(seed)
    np.random.seed(seed)
    torch.random.default_generator.manual_seed(seed)


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Put the states of the generators of `random`, numpy and torch back after a block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
