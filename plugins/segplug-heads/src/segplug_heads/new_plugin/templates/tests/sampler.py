from __future__ import annotations

from typing import Any

from segplug_my_model.sampler import MyModelSampler


def test_every_sample_is_drawn_once_and_groups_stay_together() -> None:
    dataset: Any = range(10)
    order = list(MyModelSampler(group=4).order(dataset, seed=0, epoch=0, batch=2))
    assert sorted(order) == list(range(10))
    assert {order[order.index(first) + 1] for first in (0, 4, 8)} == {1, 5, 9}


def test_epochs_differ() -> None:
    dataset: Any = range(40)
    first, second = (list(MyModelSampler().order(dataset, 0, epoch, 2)) for epoch in range(2))
    assert first != second
