"""Runs a function over many jobs in worker processes, which end with this process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from segkernel.errors import DataError
from segkernel.image import opencv

Job = TypeVar("Job")
Result = TypeVar("Result")

_shared: list[Any] = []


def run_in_processes(
    function: Callable[[Any, Job], Result], shared: Any, jobs: Sequence[Job], workers: int
) -> Iterator[Result]:
    """Yield ``function(shared, job)`` of every job, in the order of completion.

    Args:
        function: Function of an importable module.
        shared: First argument, pickled once per process.
        jobs: Second arguments, one per call.
        workers: Number of processes; 0 runs all jobs in this one, in order.

    Raises:
        DataError: When a process is killed.
    """
    if not workers:
        for job in jobs:
            yield function(shared, job)
        return
    # Not forked: a forked copy of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)) or 1, context, _start, (shared,))
    try:
        for future in as_completed([pool.submit(_call, function, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        hint = "possibly by the out-of-memory killer: use fewer workers, or 0 to see the error itself"
        raise DataError(f"a worker process was killed, {hint}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(shared: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    opencv().setNumThreads(0)
    _shared.append(shared)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(function: Callable[[Any, Job], Result], job: Job) -> Result:
    return function(_shared[0], job)
