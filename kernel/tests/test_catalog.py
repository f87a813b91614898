"""Discovery: hand-made distributions, every status and every error."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest

import segkernel
from segkernel.catalog import CONTRACT, GROUPS, Catalog, Row, unusable
from segkernel.errors import (
    AmbiguousComponentError,
    BrokenPluginError,
    DisabledPluginError,
    IncompatiblePluginError,
    NotInstalledError,
    UnknownComponentError,
    UsageError,
)


class Distribution(importlib_metadata.Distribution):
    """An installed distribution that exists only here."""

    def __init__(self, name: str, entries: str, requires: str = "seg-kernel>=0.3,<1", version: str = "1.2") -> None:
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        header = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}\nA text: with colons"
        self.files_by_name = {"METADATA": header, "entry_points.txt": entries}

    def read_text(self, filename: str) -> str | None:
        return self.files_by_name.get(filename)

    def locate_file(self, path: Any) -> Any:
        return path


def heads(*names: str, module: str = "json") -> str:
    return "[segkernel.heads]\n" + "".join(f"{name} = {module}:{name}\n" for name in names)


def catalog(*distributions: Distribution) -> Catalog:
    return Catalog.discover(distributions)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("DISABLE", "STRICT", "PREFER"):
        monkeypatch.delenv(f"SEGKERNEL_{key}", raising=False)


def test_rows_contain_the_metadata() -> None:
    (row,) = catalog(Distribution("Segplug_My.Model", heads("JSONDecoder"))).rows
    assert row == Row("heads", "JSONDecoder", "segplug-my-model", "1.2", "json:JSONDecoder", "ok", ">=0.3,<1")


def test_other_groups_are_left_alone() -> None:
    assert catalog(Distribution("other", "[console_scripts]\nx = segkernel.cli:main\n")).rows == ()


def test_discovery_imports_no_component() -> None:
    catalog(Distribution("a", heads("Thing", module="a_module_that_does_not_exist")))


def test_the_installed_catalog_is_read_once() -> None:
    assert Catalog.discover() is Catalog.discover()


def test_the_first_distribution_on_the_path_wins() -> None:
    rows = catalog(Distribution("a", heads("X"), version="2"), Distribution("A", heads("X"), version="1")).rows
    assert [row.version for row in rows] == ["2"]


REQUIREMENTS = {
    "": "ok",
    "seg_kernel >=0.3,<1": "ok",
    "Seg.Kernel (>=0.3.0.dev1)": "ok",
    "seg-kernel~=0.3": "ok",
    "seg-kernel==0.3.*": "ok",
    "seg-kernel>=0.3; python_version < '3'": "ok",
    "seg-kernel>=99; extra == 'test'": "ok",
    "seg-kernel-extras>=99": "ok",
    "seg-kernel @ https://example.org/seg_kernel.whl": "ok",
    "seg-kernel": "older",
    "seg-kernel<1": "older",
    "seg-kernel>=0,<1": "older",
    "seg-kernel>=0.2,<1": "older",
    "seg-kernel>0.2.9,!=0.3": "older",
    "seg-kernel<0.3": "older",
    "seg-kernel>=99": "excluded",
    "seg-kernel>=0.3,<0.3": "excluded",
    "seg-kernel >>> 3": "older",
}


def test_the_handshake_reads_the_requirement() -> None:
    def outcome(requires: str) -> str:
        (row,) = catalog(Distribution("a", heads("X"), requires)).rows
        return row.status if row.status == "ok" else "older" if unusable(row).contract else "excluded"

    assert {requires: outcome(requires) for requires in REQUIREMENTS} == REQUIREMENTS


def test_a_plugin_for_older_contracts_is_refused_with_what_to_do() -> None:
    found = catalog(Distribution("old", heads("X", module="not_importable"), "seg-kernel>=0.2,<1"))
    with pytest.raises(IncompatiblePluginError) as caught:
        found.load("heads", "X")
    assert (caught.value.requires, caught.value.contract) == (">=0.2,<1", CONTRACT)
    for advice in ("contracts before 0.3", "pip install --upgrade old", "seg-kernel>=0.3"):
        assert advice in str(caught.value)


@pytest.mark.parametrize(("running", "status"), [("0.3.1.dev1", "ok"), ("0.5rc1", "ok"), ("1.0.0", "incompatible")])
def test_the_handshake_counts_prereleases(monkeypatch: pytest.MonkeyPatch, running: str, status: str) -> None:
    monkeypatch.setattr(segkernel, "__version__", running)
    assert catalog(Distribution("a", heads("X"))).rows[0].status == status


def test_an_incompatible_plugin_is_warned_of_and_never_imported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = catalog(Distribution("too-new", heads("X", "Y", module="not_importable"), "seg-kernel>=99"))
    assert len(caplog.records) == 1
    with pytest.raises(IncompatiblePluginError, match="too-new accepts seg-kernel >=99") as caught:
        found.load("heads", "X")
    assert caught.value.exit_code == 3


def test_strict_mode_makes_an_incompatible_plugin_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKERNEL_STRICT", "1")
    with pytest.raises(IncompatiblePluginError):
        catalog(Distribution("a", heads("X"), "seg-kernel>=99"))


DAMAGED = "[segkernel.heads]\nX = not an object reference at all !\n"


def test_damaged_entry_points_break_only_their_own_distribution(caplog: pytest.LogCaptureFixture) -> None:
    found = catalog(Distribution("bad", DAMAGED), Distribution("good", heads("JSONDecoder")))
    assert found.load("heads", "JSONDecoder").__name__ == "JSONDecoder"


def test_disabled_plugins_are_hidden_but_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKERNEL_DISABLE", "other, Segplug_A")
    found = catalog(Distribution("segplug-a", heads("X")))
    assert found.names("heads") == []
    with pytest.raises(DisabledPluginError, match="SEGKERNEL_DISABLE"):
        found.find("heads", "X")


def test_a_disabled_plugin_makes_no_name_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKERNEL_DISABLE", "a")
    assert catalog(Distribution("a", heads("X")), Distribution("b", heads("X"))).find("heads", "X").distribution == "b"


def test_short_and_qualified_names_find_the_same_row() -> None:
    found = catalog(Distribution("segplug-a", heads("X")))
    assert found.find("heads", "X") == found.find("heads", "segplug-a/X") == found.find("heads", "Segplug_A/X")


def test_a_name_of_two_distributions_is_an_error_on_use() -> None:
    found = catalog(Distribution("a", heads("X")), Distribution("b", heads("X")))
    with pytest.raises(AmbiguousComponentError, match="a/X or b/X") as caught:
        found.find("heads", "X")
    assert caught.value.candidates == ("a/X", "b/X")
    assert found.find("heads", "b/X").distribution == "b"


def test_preference_settles_an_ambiguous_name() -> None:
    found = catalog(Distribution("a", heads("X")), Distribution("b", heads("X"))).prefer(["none-such", "B"])
    assert found.find("heads", "X").distribution == "b"
    assert found.preferred == ("none-such", "b")


def test_the_environment_is_preferred_over_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKERNEL_PREFER", "a")
    found = catalog(Distribution("a", heads("X")), Distribution("b", heads("X"))).prefer(["b"])
    assert found.find("heads", "X").distribution == "a"


def test_a_distribution_that_contradicts_itself_is_reported() -> None:
    found = catalog(Distribution("a", "[segkernel.heads]\nX = one:X\nX = two:X\n"))
    with pytest.raises(AmbiguousComponentError, match=r"2 times\n.*one:X or two:X"):
        found.find("heads", "X")
    with pytest.raises(AmbiguousComponentError):
        found.prefer(["a"]).find("heads", "X")


def test_the_same_entry_twice_is_one() -> None:
    assert len(catalog(Distribution("a", "[segkernel.heads]\nX = one:X\nX = one:X\n")).rows) == 1


def test_an_unknown_name_offers_near_ones() -> None:
    with pytest.raises(UnknownComponentError, match="did you mean 'PSPHead'") as caught:
        catalog(Distribution("a", heads("PSPHead", "FCNHead"))).find("heads", "PSPHaed")
    assert caught.value.near == ("PSPHead",)
    assert caught.value.exit_code == 2


def test_a_name_of_another_group_is_reported_as_such() -> None:
    with pytest.raises(UnknownComponentError, match="a/X is one of the heads"):
        catalog(Distribution("a", heads("X"))).find("backbones", "X")


def test_a_qualified_name_of_the_wrong_distribution_offers_the_right_one() -> None:
    with pytest.raises(UnknownComponentError, match="did you mean 'a/X'"):
        catalog(Distribution("a", heads("X")), Distribution("b", heads("Y"))).find("heads", "b/X")


@pytest.mark.parametrize("name", ["ResNet", "segplug-backbones/ResNet"])
def test_a_known_name_that_is_not_installed_gets_the_pip_command(name: str) -> None:
    with pytest.raises(NotInstalledError, match="pip install segplug-backbones") as caught:
        catalog().find("backbones", name)
    assert caught.value.exit_code == 3


def test_an_unknown_group_offers_a_near_one() -> None:
    with pytest.raises(UsageError, match="available: heads"):
        catalog().names("head")


def test_a_component_that_fails_to_import_is_named_with_its_cause() -> None:
    found = catalog(Distribution("a", heads("X", module="no_such_module") + "Good = json:JSONDecoder\n"))
    with pytest.raises(BrokenPluginError, match=r"a/X \(no_such_module:X\) failed to import: ModuleNotFound") as caught:
        found.load("heads", "X")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert found.load("heads", "Good").__name__ == "JSONDecoder"


def test_a_component_missing_from_its_module_is_broken() -> None:
    with pytest.raises(BrokenPluginError, match="AttributeError"):
        catalog(Distribution("a", heads("NoSuchName"))).load("heads", "NoSuchName")


def test_entry_points_may_have_extras_and_dots() -> None:
    found = catalog(Distribution("a", "[segkernel.heads]\nX = json : JSONDecoder.decode [extra]\n"))
    assert found.load("heads", "X").__qualname__ == "JSONDecoder.decode"


@pytest.fixture
def local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    return tmp_path


def test_a_module_of_the_current_directory_can_be_named(local_folder: Path) -> None:
    (local_folder / "my_local_head.py").write_text("class MyHead: ...")
    row = catalog().find("heads", "my_local_head:MyHead")
    assert (row.qualified, row.distribution) == ("my_local_head:MyHead", "")
    assert catalog().load("heads", "my_local_head:MyHead").__name__ == "MyHead"
    assert sys.path[-1] == str(local_folder)


def test_a_missing_local_module_is_reported_with_the_searched_places(local_folder: Path) -> None:
    with pytest.raises(UnknownComponentError, match=f"current directory {local_folder}"):
        catalog().load("heads", "no_such_local_module:MyHead")


def test_a_local_name_that_is_missing_offers_near_ones(local_folder: Path) -> None:
    (local_folder / "my_local_names.py").write_text("class MyHead: ...")
    with pytest.raises(UnknownComponentError, match="did you mean 'my_local_names:MyHead'"):
        catalog().load("heads", "my_local_names:MyHaed")


@pytest.mark.parametrize(
    "code", ["import no_such_dependency", "raise RuntimeError('no')", "import sys; sys.exit()", "x ="]
)
def test_a_local_module_that_raises_is_broken(local_folder: Path, code: str) -> None:
    name = f"my_broken_{abs(hash(code))}"
    (local_folder / f"{name}.py").write_text(code)
    with pytest.raises(BrokenPluginError, match=f"{name}:MyHead failed to import"):
        catalog().load("heads", f"{name}:MyHead")


@pytest.mark.parametrize("name", ["AdamW", "torch/SGD"])
def test_optimisers_fall_back_on_torch(name: str) -> None:
    pytest.importorskip("torch")
    assert catalog().load("optimizers", name).__name__ == name.removeprefix("torch/")
    assert catalog().find("optimizers", name).distribution == "torch"


@pytest.mark.parametrize("name", ["AdmaW", "lr_scheduler", "SGDD"])
def test_an_optimiser_that_torch_does_not_have_is_unknown(name: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(UnknownComponentError):
        catalog().find("optimizers", name)


def test_a_plugin_is_preferred_over_torch() -> None:
    found = catalog(Distribution("a", "[segkernel.optimizers]\nAdamW = json:JSONDecoder\n"))
    assert found.find("optimizers", "AdamW").distribution == "a"


def test_every_contract_can_be_imported() -> None:
    pytest.importorskip("torch")
    for contract in filter(None, GROUPS.values()):
        module, _, name = contract.partition(":")
        found = Catalog().load_row(Row("", name, "kernel", "", contract))
        assert f"{found.__module__}:{found.__qualname__}" == f"{module}:{name}"


def test_the_kernel_offers_its_own_components() -> None:
    assert Catalog.discover().find("engines", "LocalEngine").distribution == "seg-kernel"


def test_the_installed_version_is_the_one_in_the_code() -> None:
    assert importlib_metadata.version("seg-kernel") == segkernel.__version__
