from __future__ import annotations

from typing import Any

from segplug_my_model.config_check import check_config


def test_only_huge_batches_are_reported() -> None:
    small: Any = {"optim": {"batch_size": 16}}
    huge: Any = {"optim": {"batch_size": 100000}}
    assert check_config(small) == []
    assert [problem.path for problem in check_config(huge)] == ["optim.batch_size"]
