"""Reading, computing and writing at the same time, in order: threads read ahead of the computation and write behind it.

Decoding and encoding of images release Python's lock, so threads are enough.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(4, os.cpu_count() or 1)
MOST_WAITING = 2**28
"""Bytes of results that may wait, so that large images do not fill the memory."""


def prefetched(items: Iterable[Item], count: int = 2) -> Generator[Item, None, None]:
    """Yield items, which another thread draws up to ``count`` ahead."""
    end, iterator = object(), iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, iterator, end) for _ in range(count))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, iterator, end))
                yield item  # type: ignore[misc]  # not ``end``
        finally:
            pool.shutdown(cancel_futures=True)


def mapped(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int = 2 * THREADS,
    threads: int = THREADS,
    size: Callable[[Result], int] = lambda result: 0,
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in order, computed in threads before it is needed.

    Args:
        function: Called with each item.
        items: Drawn in this thread.
        ahead: Largest number of results that wait.
        threads: Number of threads.
        size: Bytes of a result; those that wait, each as large as the largest so far, take at most `MOST_WAITING`.
    """
    waiting: deque[Future[Result]] = deque()
    sizes: list[int] = []

    def is_full() -> bool:
        sizes.extend(size(future.result()) for future in waiting if future.done() and future.exception() is None)
        sizes[:] = [max(sizes)] if sizes else []
        most = ahead if sizes else threads  # until the first size is known
        return len(waiting) > most or (bool(sizes) and sizes[0] * len(waiting) > MOST_WAITING)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                while waiting and is_full():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def grouped(items: Iterable[Item], key: Callable[[Item], Any], size: int) -> Iterator[list[Item]]:
    """Yield lists of consecutive items with an equal key, of at most ``size``."""
    group: list[Item] = []
    for item in items:
        if group and (len(group) == size or key(group[0]) != key(item)):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


class Behind:
    """Runs functions in threads while the caller goes on; at most ``most`` of them wait.

    An error is raised by a later call, or at the end of the ``with`` block.

    Args:
        threads: Number of threads; with 1 the functions run in order.
        most: Calls that may wait, which bounds the memory of their arguments.
    """

    def __init__(self, threads: int = THREADS, most: int = 2 * THREADS) -> None:
        self._pool, self._most = ThreadPoolExecutor(threads), most
        self._waiting: deque[Future[Any]] = deque()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        while len(self._waiting) >= self._most:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(function, *arguments))

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._pool.shutdown()
        for future in self._waiting if kind is None else ():
            future.result()
