"""Who learns how fast and who decays, in every experiment of which the reference's groups are known."""

from __future__ import annotations

from pathlib import Path

import golden_groups
import pytest

EXPECTED = golden_groups.unpack(Path(__file__).parent / "components" / "paramgroups.npz")


@pytest.mark.parametrize("name", EXPECTED)
def test_parameters_learn_as_the_reference_s(name: str) -> None:
    assert golden_groups.check(name, EXPECTED[name]).failures == []


def test_full_groups_of_parameters_are_those_of_the_packed_ones(full_cases: Path) -> None:
    paths = full_cases.glob("components/paramgroups_*.json")
    assert {path.stem.removeprefix("paramgroups_"): golden_groups.read(path) for path in paths} == EXPECTED
