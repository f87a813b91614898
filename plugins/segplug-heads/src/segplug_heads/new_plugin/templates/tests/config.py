from __future__ import annotations

import pytest

from segkernel.config import load_config
from segkernel.errors import ConfigError
from segkernel.experiment import check


def test_the_packaged_config_is_valid() -> None:
    try:
        config = load_config("segplug-my-model::my_model.yaml")
    except ConfigError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise
    problems = check(config)
    if any("pip install" in str(problem) for problem in problems):
        pytest.skip(str(problems[0]))
    assert problems == []
