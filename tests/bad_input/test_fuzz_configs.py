"""A few of the configs of ``fuzz_configs.py``, which makes as many as wanted."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from fuzz_configs import CONFIGS, fuzz


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_with_something_wrong_gets_an_answer(name: str) -> None:
    outcomes = list(fuzz([name], 60, seed=7))
    crashes = [f"{outcome.change}: {outcome.crash}" for outcome in outcomes if outcome.crash]
    assert crashes == []
    assert sum(bool(outcome.answer) for outcome in outcomes) > 20, "most changes are wrong and have to be refused"
