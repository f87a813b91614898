"""Requests that wait together are computed together; each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from segplug_deploy.serve.batcher import Batcher
from segplug_deploy.serve.refusal import Limits, Refusal


class Recorder:
    """Doubles numbers; computes only while its gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate, self.started = threading.Event(), threading.Event()

    def __call__(self, given: Sequence[int]) -> Sequence[Any]:
        self.batches.append(list(given))
        self.started.set()
        assert self.gate.wait(60)
        return [ValueError(value) if value < 0 else 2 * value for value in given]


def play(scenario: Any, **limits: float) -> tuple[Any, Recorder]:
    """Run ``scenario(batcher, recorder)`` with a batcher that computes."""

    async def main() -> Any:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(recorder, executor, Limits(**limits))
            running = asyncio.create_task(batcher.run())
            try:
                return await asyncio.wait_for(scenario(batcher, recorder), 60)
            finally:
                recorder.gate.set()
                running.cancel()

    recorder = Recorder()
    return asyncio.run(main()), recorder


async def while_busy(batcher: Batcher, recorder: Recorder, *requests: tuple[int, tuple[int, int]]) -> list[Any]:
    """Send requests while another one is computed; return their results."""
    first = asyncio.create_task(batcher.submit(0, (1, 1)))
    while not recorder.started.is_set():
        await asyncio.sleep(0.001)
    tasks = [asyncio.create_task(batcher.submit(*request)) for request in requests]
    await asyncio.sleep(0)
    recorder.gate.set()
    results = await asyncio.gather(first, *tasks, return_exceptions=True)
    return results[1:]


def test_requests_of_equal_size_are_one_batch_and_each_gets_its_own_answer() -> None:
    async def scenario(batcher: Batcher, recorder: Recorder) -> Any:
        return await while_busy(batcher, recorder, (1, (4, 4)), (2, (4, 4)), (3, (4, 5)), (4, (4, 4)))

    results, recorder = play(scenario)
    assert results == [2, 4, 6, 8]
    assert recorder.batches == [[0], [1, 2, 4], [3]]


def test_a_batch_has_at_most_its_number_of_images_and_of_pixels() -> None:
    async def scenario(batcher: Batcher, recorder: Recorder) -> Any:
        small = [(value, (10, 10)) for value in range(5)]
        large = [(value, (500, 500)) for value in range(5, 8)]
        return await while_busy(batcher, recorder, *small, *large)

    _, recorder = play(scenario, batch=3, megapixels=0.5)
    assert recorder.batches == [[0], [0, 1, 2], [3, 4], [5, 6], [7]]


def test_an_error_of_one_request_is_raised_for_it_only() -> None:
    async def scenario(batcher: Batcher, recorder: Recorder) -> Any:
        return await while_busy(batcher, recorder, (1, (4, 4)), (-2, (4, 4)), (3, (4, 4)))

    results, _ = play(scenario)
    assert results[0] == 2
    assert results[2] == 6
    assert isinstance(results[1], ValueError)


def test_a_request_that_is_given_up_leaves_the_queue() -> None:
    async def scenario(batcher: Batcher, recorder: Recorder) -> Any:
        first = asyncio.create_task(batcher.submit(0, (4, 4)))
        while not recorder.started.is_set():
            await asyncio.sleep(0.001)
        second = asyncio.create_task(batcher.submit(1, (4, 4)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        waiting = batcher.waiting
        recorder.gate.set()
        return await first, waiting, await batcher.submit(2, (4, 4))

    results, recorder = play(scenario)
    assert results == (0, 0, 4)
    assert recorder.batches == [[0], [2]]


def test_a_batch_waits_for_requests_that_are_being_received_and_an_idle_model_does_not() -> None:
    async def scenario(batcher: Batcher, recorder: Recorder) -> Any:
        recorder.gate.set()
        await batcher.submit(1, (4, 4))  # with a wait of an hour, this would not end
        with batcher.place(), batcher.place():
            first = asyncio.create_task(batcher.submit(2, (4, 4)))
            await asyncio.sleep(0.02)  # the other is being received
            second = asyncio.create_task(batcher.submit(3, (4, 4)))
            return await asyncio.gather(first, second)

    results, recorder = play(scenario, wait=3600)
    assert results == [4, 6]
    assert recorder.batches == [[1], [2, 3]]


def test_a_full_queue_is_refused_and_places_are_given_back() -> None:
    async def scenario(batcher: Batcher, recorder: Recorder) -> Any:
        with batcher.place(), batcher.place(), pytest.raises(Refusal) as caught, batcher.place():
            pass
        with batcher.place():
            return caught.value

    refusal, _ = play(scenario, queue=2)
    assert refusal.status == 429
    assert refusal.headers == {"Retry-After": "1"}
