"""The blocks of README and docs are what they say: packages install, configs parse, components pass the kit."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import types
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import click
import pytest

from segkernel.catalog import Catalog
from segkernel.cli import cli
from segkernel.config.text import read_mapping
from segkernel.testing import check_object

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = {
    "Squares": "datasets", "Fog": "transforms", "PixelAccuracy": "metrics", "Patience": "hooks",
    "TwoConvs": "segmentors", "TraceExporter": "exporters", "EncoderNames": "weight_formats",
}  # fmt: skip
"""The classes that docs/plugins.md shows whole."""


def blocks(language: str, page: Path | None = None) -> list[Any]:
    """Return the blocks of a language, as parameters of a test that are named by page and line."""
    found = []
    for path in [page] if page else PAGES:
        text = path.read_text("utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.S | re.M):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match[1], id=f"{path.stem}:{line}"))
    return found


def own_packages(text: str) -> bool:
    return "[project.entry-points" in text


@pytest.mark.parametrize("text", blocks("toml"))
def test_a_package_installs_as_it_stands(text: str, tmp_path: Path) -> None:
    if not own_packages(text):
        pytest.skip("settings of another tool")
    (module,) = re.findall(r'= "([\w.]+):\w+"', text)
    file = tmp_path / Path(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    (tmp_path / "pyproject.toml").write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    done = subprocess.run([*pip, "--target", "site", "."], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (installed,) = distributions(path=[str(tmp_path / "site")])
    (point,) = installed.entry_points
    assert point.group.startswith("segkernel.")
    assert (tmp_path / "site" / file.relative_to(tmp_path)).exists()


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_config_can_be_read(text: str) -> None:
    problems: list[Any] = []
    assert read_mapping(text, "block.yaml", problems)
    assert problems == []


@pytest.mark.parametrize("text", blocks("python"))
def test_python_is_python(text: str) -> None:
    ast.parse(text)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_a_component_of_the_page_passes_the_kit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = (
        each.values[0] for each in blocks("python", ROOT / "docs" / "plugins.md") if f"class {name}" in each.values[0]
    )
    module = types.ModuleType("segkernel_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(text, name, "exec"), module.__dict__)
    results = check_object(KINDS[name], getattr(module, name), catalog=Catalog())
    assert [str(result) for result in results if not result.ok] == []


def lines() -> list[Any]:
    """Return the lines of shell blocks that call seg-kernel."""
    found = {}
    for block in blocks("(?:bash|console)"):
        for line in block.values[0].replace("\\\n", " ").splitlines():
            if line.removeprefix("$ ").startswith("seg-kernel "):
                found[f"{block.id}:{line[:40]}"] = line.removeprefix("$ ")
    return [pytest.param(line, id=name) for name, line in found.items()]


@pytest.mark.parametrize("line", lines())
def test_a_command_and_its_options_exist(line: str) -> None:
    words = shlex.split(line.partition(" #")[0])[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words:
        name, found, words = command.resolve_command(context, words)
        assert found is not None, line
        command, context = found, click.Context(found, parent=context, info_name=name)
    options = {name for parameter in command.get_params(context) for name in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options | {
        "--help",
        "--traceback",
        "--log-level",
    }
