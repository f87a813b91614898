"""A few of the mutated configs of ``fuzz_configs.py``."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from fuzz_configs import CONFIGS, fuzz


@pytest.mark.parametrize("name", CONFIGS)
def test_invalid_configs_are_refused_without_a_crash(name: str) -> None:
    outcomes = list(fuzz([name], 60, seed=7))
    crashes = [f"{outcome.change}: {outcome.crash}" for outcome in outcomes if outcome.crash]
    assert crashes == []
    assert sum(bool(outcome.answer) for outcome in outcomes) > 20, "most mutations are invalid and must be refused"
