"""Dynamic batching: requests of equal size that wait at the same time are computed together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from segplug_deploy.serve.refusal import Limits, busy

Compute = Callable[[Sequence[Any]], Sequence[Any]]
"""Inputs to results in the same order; a result that is an exception is raised for its request only."""


@dataclass(eq=False)
class _Job:
    given: Any
    size: tuple[int, int]
    done: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Collects the requests of one model; `run` computes them until it is cancelled.

    While a batch is computed, the next one collects. An idle model starts at once, unless other requests are being
    received: it waits up to ``limits.wait`` seconds for them.

    Args:
        compute: Computes a batch, in a thread of ``executor``.
        executor: One thread for all models, so that batches do not compete for the cores.
        limits: See `Limits`.
        observe: Called with the size of each batch.
    """

    def __init__(
        self, compute: Compute, executor: Executor, limits: Limits, observe: Callable[[int], None] = lambda size: None
    ) -> None:
        self._compute, self._executor, self._limits, self._observe = compute, executor, limits, observe
        self._jobs: list[_Job] = []
        self._arrived = asyncio.Event()
        self.places = 0
        """Requests that `place` admitted and that are not answered yet."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._jobs)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place in the queue for the time of a request.

        Raises:
            Refusal: 429 when all are taken.
        """
        if self.places >= self._limits.queue:
            raise busy(429, f"{self.places} requests are in progress, the limit: wait, and send fewer at one time")
        self.places += 1
        try:
            yield
        finally:
            self.places -= 1
            self._arrived.set()  # a batch need not wait for it

    async def submit(self, given: Any, size: tuple[int, int]) -> Any:
        """Return the result of one input; inputs of the same ``size``, height and width, can be one batch."""
        job = _Job(given, size)
        self._jobs.append(job)
        self._arrived.set()
        try:
            return await job.done
        finally:
            with suppress(ValueError):  # a request that was cancelled leaves the queue
                self._jobs.remove(job)

    async def run(self) -> None:
        """Compute batches, the longest waiting request first."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._jobs:
                await self._change(None)
            until = loop.time() + self._limits.wait
            while self._may_grow() and (left := until - loop.time()) > 0:
                await self._change(left)
            if batch := self._next():
                self._jobs = [job for job in self._jobs if job not in batch]
                self._observe(len(batch))
                await self._answer(batch)

    async def _answer(self, batch: Sequence[_Job]) -> None:
        given = [job.given for job in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._executor, self._compute, given)
        except Exception as error:
            results = [error] * len(batch)
        for job, result in zip(batch, results, strict=True):
            if job.done.done():  # cancelled meanwhile
                continue
            if isinstance(result, Exception):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)

    async def _change(self, seconds: float | None) -> None:
        """Wait until a request arrives or leaves, at most for some seconds."""
        self._arrived.clear()
        # Not `asyncio.wait_for`, which can swallow a cancellation before Python 3.12.
        timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._arrived.set)
        try:
            await self._arrived.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _may_grow(self) -> bool:
        """Whether other requests are being received, and the next batch has room for them."""
        return 0 < len(self._jobs) < self.places and len(self._next()) < self._most(self._jobs[0])

    def _next(self) -> list[_Job]:
        """Return the next batch: the first request, and those of its size; nothing if all have left."""
        alike = [job for job in self._jobs if job.size == self._jobs[0].size]
        return alike[: self._most(alike[0])] if alike else []

    def _most(self, job: _Job) -> int:
        """Return how many images of a size are a batch: together no larger than the largest image."""
        height, width = job.size
        return max(1, min(self._limits.batch, self._limits.pixels // (height * width)))
