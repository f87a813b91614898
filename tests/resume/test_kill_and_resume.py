"""The kill-and-resume script in its smaller form."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import kill_and_resume

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("asynchronous", "ranks"),
    [(False, 1), *(pytest.param(*case, marks=SLOW) for case in [(True, 1), (False, 2), (True, 2)])],
)
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits(
    capsys: pytest.CaptureFixture[str], asynchronous: bool, ranks: int
) -> None:
    kill_and_resume.main(kills=2, iterations=12, seed=0, asynchronous=asynchronous, ranks=ranks)
    assert "bit-identical" in capsys.readouterr().out
