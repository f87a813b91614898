"""Exceptions are picklable with all attributes: loader workers send theirs through pickle."""

from __future__ import annotations

import pickle
from multiprocessing import resource_sharer

import pytest

from segkernel.errors import (
    ConfigError,
    DataError,
    Interrupted,
    NotInstalledError,
    Problem,
    SegKernelError,
    suggest,
    worker_crash_of,
)

ERRORS = [
    DataError("is no image", "a.png"),
    Interrupted(15, "iter_10.pt"),
    NotInstalledError("heads", "PSPHead", "segplug-heads"),
    ConfigError(Problem("is missing", "model.type")),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_attributes_through_pickle(error: SegKernelError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_suggestion_lists_similar_names_or_else_all() -> None:
    assert suggest("chanels", ["channels", "depth"]) == "did you mean 'channels'?"
    assert suggest("x", {"channels": 1}) == "available: channels"
    assert suggest("x", ["channels"], "") == suggest("x", 3) == ""


def test_a_connection_lost_while_a_tensor_is_fetched_is_a_worker_crash() -> None:
    with pytest.raises(OSError) as fetching:
        resource_sharer._resource_sharer.get_connection(("/no/such/socket", 0))
    assert "data-loader worker was killed" in str(worker_crash_of(fetching.value))
    assert worker_crash_of(ConnectionResetError(104, "Connection reset by peer")) is None
