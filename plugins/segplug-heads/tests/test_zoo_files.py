"""The packaged family files, each on its own: valid, with their source, and unaffected by other packages."""

from __future__ import annotations

from segplug_heads.configs.zoo import find_zoos, read_schedules

ZOO = next(zoo for zoo in find_zoos() if zoo.name == "segplug-heads")
FAMILIES = {family.name: family for family in ZOO.families()}


def test_families_exist() -> None:
    assert FAMILIES.keys() >= {"fcn", "pspnet", "deeplabv3", "deeplabv3plus", "segformer", "fastscnn"}


def test_families_are_in_order() -> None:
    assert {name: family.problems for name, family in FAMILIES.items() if family.problems} == {}


def test_families_name_their_source() -> None:
    said = {"paper", "licence", "scores"}
    missing = {name: said - family.section("_meta_").keys() for name, family in FAMILIES.items()}
    assert {name: keys for name, keys in missing.items() if keys} == {}


def test_installing_a_package_cannot_change_what_names_mean() -> None:
    preferred = {name: family.section("base")["plugins"]["prefer"] for name, family in FAMILIES.items()}
    assert {name for name, packages in preferred.items() if "segplug-heads" not in packages} == set()


def test_schedules_exist() -> None:
    assert read_schedules(ZOO, []).keys() >= {"4xb2", "8xb4", "20k", "40k", "80k", "160k", "320k", "amp"}
