"""Discovery and the ``plugins`` command on real wheels, one for each state of a plugin.

The wheels are written here, byte by byte, and installed as pip would: unpacked on the path of a new process.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

PART = '''
class Blur:
    """A part."""
    component_group = "parts"

    def __init__(self, size: int = 3) -> None:
        self.size = size
'''
COMMAND = '''
import click

@click.command()
@click.option("--twice", is_flag=True)
def greet(twice: bool) -> None:
    """Say hello."""
    click.echo("hello " * (1 + twice))
'''
OPEN = """
class Anything:
    component_group = "parts"

    def __init__(self, **kwargs) -> None: ...
"""


def write_wheel(
    folder: Path, name: str, code: Mapping[str, str], entries: str, requires: str = "seg-kernel>=0.3,<1"
) -> Path:
    """Write ``NAME-1.0-py3-none-any.whl`` with one package of the distribution's name."""
    package = name.replace("-", "_")
    info = f"{package}-1.0.dist-info"
    contents = {f"{package}/{file}": text for file, text in code.items()}
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: {requires}\n"
    contents[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: by-hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/entry_points.txt"] = entries
    record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in contents.items())
    path = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**contents, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(file, text)
    return path


def _digest(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with five plugins installed: good, a twin, one that raises, one too new, one unchecked."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    parts = "[segkernel.parts]\n"
    good = f"{parts}Blur = wheel_good.parts:Blur\n[segkernel.commands]\ngreet = wheel_good.command:greet\n"
    raising = f"{parts}Fails = wheel_raising:Fails\n[segkernel.commands]\nfails = wheel_raising:command\n"
    raises = {"__init__.py": "raise RuntimeError('no licence for this machine')\n"}
    write_wheel(wheels, "wheel-good", {"__init__.py": "", "parts.py": PART, "command.py": COMMAND}, good)
    write_wheel(wheels, "wheel-twin", {"__init__.py": PART}, f"{parts}Blur = wheel_twin:Blur\n")
    write_wheel(wheels, "wheel-raising", raises, raising)
    write_wheel(wheels, "wheel-too-new", raises, f"{parts}New = wheel_too_new:New\n", "seg-kernel>=99,<100")
    write_wheel(wheels, "wheel-open", {"__init__.py": OPEN}, f"{parts}Anything = wheel_open:Anything\n")
    for wheel in wheels.iterdir():
        zipfile.ZipFile(wheel).extractall(site)
    return site


@pytest.fixture
def run(site: Path) -> Run:
    """Return a function that runs ``seg-kernel`` where the wheels are installed."""

    def call(*arguments: str, code: str = "from segkernel.cli import main; main()", **environment: str) -> Any:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("SEGKERNEL_")}
        command = [sys.executable, "-c", code, *arguments]
        variables = {**clean, "PYTHONPATH": str(site), **environment}
        return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120, check=False)

    return call


def listed(run: Run, **environment: str) -> dict[str, Any]:
    result = run("plugins", "--json", **environment)
    assert result.returncode == 0, result.stderr
    return {plugin["distribution"]: plugin for plugin in json.loads(result.stdout)["plugins"]}


def test_the_list_shows_every_status_and_imports_nothing(run: Run) -> None:
    plugins = listed(run)
    names = ["wheel-good", "wheel-twin", "wheel-raising", "wheel-too-new", "wheel-open"]
    assert [plugins[name]["status"] for name in names] == ["ok", "ok", "ok", "incompatible", "ok"]
    assert plugins["wheel-too-new"]["requires"] == ">=99,<100"
    assert plugins["wheel-good"]["offers"] == [
        {"group": "parts", "name": "Blur", "value": "wheel_good.parts:Blur"},
        {"group": "commands", "name": "greet", "value": "wheel_good.command:greet"},
    ]


def test_the_table_names_what_two_distributions_offer(run: Run) -> None:
    result = run("plugins")
    assert (
        "parts component 'Blur' is offered 2 times\n    write type: wheel-good/Blur or wheel-twin/Blur" in result.stdout
    )
    assert "accepts seg-kernel >=99,<100, but" in result.stderr
    assert "is offered" not in run("plugins", SEGKERNEL_PREFER="wheel-twin").stdout


def test_a_disabled_plugin_is_listed_as_such(run: Run) -> None:
    assert listed(run, SEGKERNEL_DISABLE="wheel_good")["wheel-good"]["status"] == "disabled"


def test_strict_mode_ends_with_the_reason(run: Run) -> None:
    result = run("plugins", SEGKERNEL_STRICT="1")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: wheel-too-new accepts")


def test_strict_mode_passes_once_the_plugin_is_disabled(run: Run) -> None:
    assert run("plugins", SEGKERNEL_STRICT="1", SEGKERNEL_DISABLE="wheel-too-new").returncode == 0


def test_show_lists_names_and_import_paths(run: Run) -> None:
    result = run("plugins", "show", "Wheel_Good")
    assert result.returncode == 0
    assert "wheel-good 1.0: ok, accepts seg-kernel >=0.3,<1" in result.stdout
    assert "Blur  wheel_good.parts:Blur" in result.stdout
    assert json.loads(run("plugins", "show", "wheel-raising", "--json").stdout)["version"] == "1.0"


def test_show_suggests_a_near_distribution(run: Run) -> None:
    result = run("plugins", "show", "wheel-god")
    assert result.returncode == 2
    assert "installed: wheel-good" in result.stderr


def test_show_prints_the_pip_command_of_a_known_plugin(run: Run) -> None:
    code = (
        "import segkernel.catalog as c; original = c._scan_installed;"
        "c._scan_installed = lambda *a: c.Catalog(); from segkernel.cli import main; main()"
    )
    result = run("plugins", "show", "segplug-heads", code=code)
    assert result.returncode == 3
    assert "pip install segplug-heads" in result.stderr


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("wheel-good", 0, "wheel-good: 5 passed"),
        ("wheel-twin", 0, "wheel-twin: 4 passed"),
        ("wheel-raising", 3, "failed to import: RuntimeError: no licence for this machine"),
        ("wheel-too-new", 3, "accepts seg-kernel >=99,<100"),
        ("wheel-open", 3, "open **kwargs"),
    ],
)
def test_check_distinguishes_good_from_broken_plugins(run: Run, name: str, code: int, text: str) -> None:
    result = run("plugins", "check", name)
    assert result.returncode == code
    assert text in result.stdout


def test_checking_all_plugins_continues_after_a_failure(run: Run) -> None:
    result = run("plugins", "check", "--json")
    found = {(entry["distribution"], entry["component"]): entry["status"] for entry in json.loads(result.stdout)}
    assert result.returncode == 3
    assert found["wheel-good", "parts/Blur"] == "passed"
    assert found["wheel-raising", "parts/Fails"] == "failed"


def test_a_deep_check_runs_the_conformance_kit(run: Run) -> None:
    result = run("plugins", "check", "wheel-good", "--deep", "--json")
    assert len(json.loads(result.stdout)) > 2
    assert result.returncode in (0, 3)


BUILD = "import sys; from segkernel import build; print(build('parts', {'type': sys.argv[1]}).__module__)"


def test_a_broken_plugin_only_breaks_configs_that_name_it(run: Run) -> None:
    assert run("wheel-good/Blur", code=BUILD).stdout.strip() == "wheel_good.parts"
    assert "wheel-raising/Fails" in run("Fails", code=BUILD).stderr


def test_an_ambiguous_name_is_an_error_until_one_is_preferred(run: Run) -> None:
    assert "wheel-good/Blur or wheel-twin/Blur" in run("Blur", code=BUILD).stderr
    assert run("Blur", code=BUILD, SEGKERNEL_PREFER="wheel-twin").stdout.strip() == "wheel_twin"
    assert run("Blur", code=BUILD, SEGKERNEL_DISABLE="wheel-twin").stdout.strip() == "wheel_good.parts"


def test_commands_of_plugins_are_listed_without_import_and_run(run: Run) -> None:
    listed_help = " ".join(run("--help").stdout.split())  # how far names are padded depends on what is installed
    assert "greet Say hello." in listed_help
    assert "fails from wheel-raising" in listed_help, "its module has no function with a docstring"
    assert run("greet", "--twice").stdout == "hello hello \n"
    assert run("greet", "--log-level", "debug", "--traceback").returncode == 0


def test_a_broken_command_is_reported_without_a_traceback(run: Run) -> None:
    result = run("fails")
    assert result.returncode == 3
    assert "RuntimeError: no licence for this machine" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("--traceback", "fails").stderr
