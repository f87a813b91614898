"""Inspection of every file of some sets, in several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from segkernel.errors import DataError
from segplug_datasets.doctor.parts import Part
from segplug_datasets.doctor.sample_info import (
    ImageInfo,
    Pair,
    SampleInfo,
    count_as_numbers,
    inspect_pair,
    inspect_sample,
)
from segplug_datasets.parallel import run_in_processes

FEW = 32
"""Up to this number of samples, no worker processes are started, which would take longer."""

CHUNK = 8
"""Samples per job."""

Task = tuple[int, int, list[Pair]]
"""Number of the set, number of the first sample, and some samples from there on."""


def inspect(
    parts: Sequence[Part], workers: int | None = None, progress: Callable[[int], object] = lambda count: None
) -> list[tuple[Part, list[SampleInfo]]]:
    """Return every set with the properties of its samples, in order.

    Args:
        parts: The sets.
        workers: Number of processes; None is one per CPU, 0 uses this process.
        progress: Called with the number of samples done since the last call.
    """
    tasks = [
        (number, start, part.pairs[start : start + CHUNK])
        for number, part in enumerate(parts)
        for start in range(0, len(part.pairs), CHUNK)
    ]
    datasets = {number: part.dataset for number, part in enumerate(parts) if part.dataset is not None}
    workers = _processors() if workers is None else workers
    alone = workers < 1 or sum(len(part.pairs) for part in parts) <= FEW
    seen: dict[tuple[int, int], list[SampleInfo]] = {}
    for place, samples in _in_processes(tasks, datasets, 0 if alone else workers):
        seen[place] = samples
        if not parts[place[0]].colors:
            for mask in filter(None, (sample.mask for sample in samples)):
                count_as_numbers(mask)
        progress(len(samples))
    return [
        (part, [sample for start in range(0, len(part.pairs), CHUNK) for sample in seen[number, start]])
        for number, part in enumerate(parts)
    ]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(
    tasks: Sequence[Task], datasets: Mapping[int, Any], workers: int
) -> Iterator[tuple[tuple[int, int], list[SampleInfo]]]:
    """Yield tasks as they are done; those whose process crashed are retried, one sample at a time."""
    lost = {(number, start): pairs for number, start, pairs in tasks}
    try:
        for place, samples in run_in_processes(_run_task, datasets, tasks, workers):
            del lost[place]
            yield place, samples
    except DataError:
        for (number, start), pairs in lost.items():
            yield (number, start), [_retry_isolated((number, start, [pair]), datasets) for pair in pairs]


def _retry_isolated(task: Task, datasets: Mapping[int, Any]) -> SampleInfo:
    """Inspect one sample in an isolated process, since decoding may crash."""
    pair = task[2][0]
    try:
        return next(iter(run_in_processes(_run_task, datasets, [task], 1)))[1][0]
    except DataError:
        return SampleInfo(pair.name, ImageInfo(pair.image), None, "reading it crashed the process: a damaged file?")


def _run_task(datasets: Mapping[int, Any], task: Task) -> tuple[tuple[int, int], list[SampleInfo]]:
    number, start, pairs = task
    dataset = datasets.get(number)
    return (number, start), [
        inspect_pair(pair) if pair.index is None else _load_sample(dataset, pair) for pair in pairs
    ]


def _load_sample(dataset: Any, pair: Pair) -> SampleInfo:
    try:
        sample = dataset[pair.index]
    except (DataError, OSError) as error:
        sample = error if isinstance(error, DataError) else DataError(str(error))
    return inspect_sample(pair, sample)
