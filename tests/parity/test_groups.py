"""Learning rates and weight decays of parameters, in every experiment whose reference groups are known."""

from __future__ import annotations

from pathlib import Path

import golden_groups
import pytest

EXPECTED = golden_groups.unpack(Path(__file__).parent / "components" / "paramgroups.npz")


@pytest.mark.parametrize("name", EXPECTED)
def test_rates_and_decays_equal_the_reference(name: str) -> None:
    assert golden_groups.check(name, EXPECTED[name]).failures == []


def test_packed_groups_equal_the_full_ones(full_cases: Path) -> None:
    paths = full_cases.glob("components/paramgroups_*.json")
    assert {path.stem.removeprefix("paramgroups_"): golden_groups.read(path) for path in paths} == EXPECTED
