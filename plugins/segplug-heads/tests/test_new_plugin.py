"""``seg-kernel new-plugin``: names, files, and components that pass the conformance kit."""

from __future__ import annotations

import ast
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")

from segkernel.catalog import GROUPS
from segkernel.config.text import read_mapping
from segkernel.errors import UsageError
from segkernel.testing import check_object
from segplug_heads.new_plugin.command import command
from segplug_heads.new_plugin.kinds import KINDS
from segplug_heads.new_plugin.names import Names
from segplug_heads.new_plugin.package import HOSTS, LICENCES, Plan, choose_lines, package_files


def new_plugin(*arguments: str) -> Result:
    """Run the command; errors are raised, as the command line would print them."""
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A package of all kinds, which can be imported while the module's tests run."""
    folder = tmp_path_factory.mktemp("new") / "segplug-test-net"
    assert new_plugin("segplug-Test-Net", "--kind", "all", "--out", str(folder)).exit_code == 0
    sys.path.insert(0, str(folder / "src"))
    yield folder
    sys.path.remove(str(folder / "src"))
    for name in [name for name in sys.modules if name.split(".")[0] == "segplug_test_net"]:
        del sys.modules[name]


def test_templates_pass_the_conformance_kit(package: Path) -> None:
    # Those of all kinds do in the session third_party, where the package is installed.
    offered = Plan(
        Names.parse("segplug-Test-Net"), ["head", "loss", "dataset", "transform", "metric", "hook"]
    ).offered()
    checked = [one for one in offered if one.group != "zoo"]
    results = [result for one in checked for result in check_object(one.group, pkgutil.resolve_name(one.value))]
    assert len(results) > 60
    assert [str(result) for result in results if not result.ok] == []


def test_every_template_is_an_entry_point_of_its_group() -> None:
    offered = Plan(Names.parse("segplug-Test-Net"), [*KINDS]).offered()
    assert {kind.group for kind in KINDS.values()} | {"zoo"} == {one.group for one in offered} <= GROUPS.keys()
    assert [one.name for one in offered if one.group in ("heads", "zoo", "commands")] == [
        "TestNetHead",
        "segplug-test-net",
        "test-net",
    ]


def test_every_kind_has_a_module_and_tests_without_names_of_the_template(package: Path) -> None:
    for kind in KINDS:
        texts = [(package / path).read_text() for path in (f"src/segplug_test_net/{kind}.py", f"tests/test_{kind}.py")]
        assert all(ast.get_docstring(ast.parse(text)) or "def test_" in text for text in texts)
    every = [path.read_text() for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert not [text for text in every if re.search(r"[Mm]y.?[Mm]odel|SPDX-L|DESCRIPTION", text)]


@pytest.mark.parametrize("kinds", [["head"], ["backbone", "neck"], ["loss", "metric", "hook"], ["segmentor"], [*KINDS]])
def test_the_config_has_the_chosen_components_and_no_condition_is_left(kinds: list[str]) -> None:
    names = Names.parse("segplug-net")
    text = package_files(Plan(names, kinds))["src/segplug_net/zoo/net.yaml"]
    config = read_mapping(text, "net.yaml", [])
    assert "# if" not in text
    assert "# unless" not in text
    assert (config["model"]["type"] == "NetSegmentor") == ("segmentor" in kinds)
    shown = {
        kind for kind in ("backbone", "neck", "head", "loss", "metric", "hook") if f"type: Net{kind.title()}" in text
    }
    assert shown == set(kinds) & {"backbone", "neck", "head", "loss", "metric", "hook"} - (
        {"backbone", "neck", "head", "loss"} if "segmentor" in kinds else set()
    )


def test_lines_of_a_template_are_kept_by_their_conditions() -> None:
    text = "a: 1\nb: 2  # if head\nc: 3  # unless head, if neck\n"
    assert choose_lines(text, ["head"]) == "a: 1\nb: 2\n"
    assert choose_lines(text, ["neck"]) == "a: 1\nc: 3\n"


@pytest.mark.parametrize("licence", LICENCES)
@pytest.mark.parametrize("host", HOSTS)
def test_licence_and_workflow_are_those_asked_for(licence: str, host: str) -> None:
    files = package_files(Plan(Names.parse("net"), ["head"], licence, "Ada", host))
    assert f'license = "{licence}"' in files["pyproject.toml"]
    assert ("Ada" in files["LICENSE"]) == (licence != "Apache-2.0")
    assert {".github/workflows/tests.yml", ".gitlab-ci.yml"} & files.keys() == {
        "github": {".github/workflows/tests.yml"},
        "gitlab": {".gitlab-ci.yml"},
        "none": set(),
    }[host]


def test_names_are_derived_from_the_distribution() -> None:
    names = Names.parse("Segplug_UNet.former")
    found = (names.distribution, names.package, names.stem, names.camel)
    assert found == ("segplug-unet-former", "segplug_unet_former", "unet-former", "UNetFormer")


@pytest.mark.parametrize("name", ["", "a b", "net-", "3d-net", "segplug-3d", "class", "json", "größe", "a/b"])
def test_names_that_cannot_be_published_or_imported_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"PEP 508|begin with a letter"):
        new_plugin(name, "--out", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_an_installed_name_and_a_folder_in_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="installed already"):
        new_plugin("segplug.Heads", "--out", str(tmp_path / "new"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        new_plugin("segplug-net", "--out", str(tmp_path))
    with pytest.raises(UsageError, match="did you mean 'head'"):
        new_plugin("segplug-net", "--kind", "haed", "--out", str(tmp_path / "new"))


def test_a_component_that_is_installed_already_is_noted(tmp_path: Path) -> None:
    output = new_plugin("segplug-FCN", "--out", str(tmp_path / "new")).output
    assert "heads component 'FCNHead' is offered by segplug-heads, too" in output
    assert "type: segplug-fcn/FCNHead" in output
    assert "next: cd " in output
