"""The packaged family files, on their own: read without a problem, say where they are from, keep their meaning."""

from __future__ import annotations

import pytest

from segplug_heads.configs.zoo import Family, find_zoos, read_schedules

ZOO = next(zoo for zoo in find_zoos() if zoo.name == "segplug-heads")
FAMILIES = {family.name: family for family in ZOO.families()}


def test_families_are_there() -> None:
    assert FAMILIES.keys() >= {"fcn", "pspnet", "deeplabv3", "deeplabv3plus", "segformer", "fastscnn"}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_family_is_in_order(family: Family) -> None:
    assert family.problems == ()
    assert {"paper", "licence", "scores"} <= family.section("_meta_").keys()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_installing_a_package_cannot_change_what_names_mean(family: Family) -> None:
    assert "segplug-heads" in family.section("base")["plugins"]["prefer"]


def test_schedules_are_there() -> None:
    assert read_schedules(ZOO, []).keys() >= {"4xb2", "8xb4", "20k", "40k", "80k", "160k", "320k", "amp"}
