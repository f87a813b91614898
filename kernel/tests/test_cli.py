"""The command line: the list of commands, exit codes, messages, and the options that exist."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

import segkernel
from segkernel import cli
from segkernel.catalog import Catalog, Row
from segkernel.cli import run
from segkernel.errors import DataError, Interrupted, NotInstalledError, UsageError

ROOT = Path(__file__).resolve().parents[2]
FLAGS = Path(__file__).with_name("fixtures") / "command_line.txt"


def call(*arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the command ``run`` raise, or return, what it is given."""

    def install(outcome: Any) -> None:
        @click.command("run")
        def command() -> Any:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        module = ModuleType("segkernel.cli.run")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def test_help_lists_commands_without_importing_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.LazyGroup, "get_command", pytest.fail)
    assert call("--help") == 0
    written = capsys.readouterr().out
    assert all(f"  {name} " in written for name in cli.COMMANDS)


def test_the_help_reads_descriptions_from_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "__init__.py").write_text("raise RuntimeError('imported')")
    text = 'def good(): """Draw\n    curves.\n\n    More."""\ndef bare(): ...\n'
    (tmp_path / "outside" / "tools.py").write_text(f"raise RuntimeError('imported')\n{text}")
    (tmp_path / "outside" / "damaged.py").write_text("def (")
    monkeypatch.syspath_prepend(tmp_path)
    values = {"good": "outside.tools:good", "bare": "outside.tools:bare", "damaged": "outside.damaged:command"}
    values |= {"missing": "outside.nosuch:command", "absent": "nosuch_package:command"}
    rows = tuple(Row("commands", name, "outside", "1", value) for name, value in values.items())
    monkeypatch.setattr(Catalog, "discover", lambda: Catalog(rows))
    assert call("--help") == 0
    lines = capsys.readouterr().out.split("Commands:")[1].splitlines()
    shown = dict(line.strip().split(maxsplit=1) for line in lines if line.strip())
    assert {name: shown[name] for name in values} == {**dict.fromkeys(values, "from outside"), "good": "Draw curves."}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"seg-kernel {segkernel.__version__}\n"


@pytest.mark.parametrize(
    ("outcome", "code", "text"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (True, 0, ""),
        (DataError("is no image", "a.png"), 1, "Error: a.png: is no image\n"),
        (UsageError("give a file"), 2, "Error: give a file\n"),
        (NotInstalledError("heads", "X", "some-package"), 3, "pip install some-package"),
        (Interrupted(15, "iter_10.pth"), 143, "saved iter_10.pth"),
        (KeyboardInterrupt(), 130, ""),
        (click.UsageError("no"), 2, "Error: no"),
        (ModuleNotFoundError("No module named 'torch'", name="torch.nn"), 3, "pip install torch"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: 9"), 1, "Error: a data-loader worker was killed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_codes(raising: Any, capsys: pytest.CaptureFixture[str], outcome: Any, code: int, text: str) -> None:
    raising(outcome)
    assert call("run") == code
    written = capsys.readouterr().err
    assert text in written
    assert "Traceback" not in written


def test_the_traceback_is_shown_on_request(raising: Any, capsys: pytest.CaptureFixture[str]) -> None:
    raising(DataError("is no image"))
    assert call("run", "--traceback") == 1
    assert "Traceback" in capsys.readouterr().err


def test_unexpected_errors_are_not_hidden(raising: Any) -> None:
    raising(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["run"])


def test_a_misspelt_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("pluggins") == 2
    assert "did you mean 'plugins'" in capsys.readouterr().err


def test_an_unrecognisable_command_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("xyzzy") == 2
    assert "see seg-kernel --help" in capsys.readouterr().err


def test_a_known_command_of_a_missing_package_gets_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Catalog, "discover", lambda: Catalog())
    assert call("plot", "work_dirs/a") == 3
    assert "pip install segplug-training" in capsys.readouterr().err


@pytest.fixture
def with_commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def row(name: str, distribution: str, value: str) -> Row:
        return Row("commands", name, distribution, "1", value)

    rows = row("same", "a", "click:Command"), row("same", "b", "json:loads"), row("run", "c", "json:loads")
    monkeypatch.setattr(Catalog, "discover", lambda: Catalog(rows))
    return


@pytest.mark.usefixtures("with_commands")
def test_commands_of_one_name_are_listed_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    call("--help")
    assert {"a/same", "b/same", "c/run"} <= set(capsys.readouterr().out.split())


@pytest.mark.usefixtures("with_commands")
def test_an_ambiguous_command_names_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("same") == 2
    assert "a/same or b/same" in capsys.readouterr().err


@pytest.mark.usefixtures("with_commands")
def test_an_entry_point_that_is_not_a_command_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("b/same") == 2
    assert "must be a click command, not a function" in capsys.readouterr().err


def test_the_log_level_can_be_before_or_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--log-level", "error", "plugins", "--log-level", "warning", "--json") == 0
    assert logging.lastResort.level == logging.WARNING  # also for libraries that set the level of their loggers
    assert call("plugins", "--log-level", "loud") == 2


def test_ctrl_c_ends_with_130() -> None:
    interrupt = "c.LazyGroup.get_command = lambda *a: os.kill(os.getpid(), 2)"
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background ignores it
    code = f"import os, signal, segkernel.cli as c\n{heard}\n{interrupt}\nc.main(['run'])"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 130


def options_of(command: click.Command, name: str) -> Iterator[str]:
    flags = sorted(flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts))
    yield f"{name}: {' '.join(flags)}"
    for child_name, child in sorted(getattr(command, "commands", {}).items()):
        yield from options_of(child, f"{name} {child_name}")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_command_line_does_not_grow_unnoticed(name: str) -> None:
    """Add intended changes to fixtures/command_line.txt by hand."""
    command: click.Command = pytest.importorskip(f"segkernel.cli.{name}").command
    lines = FLAGS.read_text().splitlines()
    assert list(options_of(command, name)) == [line for line in lines if line.split()[0].rstrip(":") == name]


def test_the_hint_table_is_in_step_with_the_plugins() -> None:
    script = ROOT / "tools" / "update_known.py"
    if not script.is_file() or sys.version_info < (3, 11):
        pytest.skip("needs the repository, and tomllib")
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0, f"run {script.name}"


@pytest.mark.parametrize("name", ["docs/plugins.md"])
def test_the_docs_name_every_group_hook_variable_and_error(name: str) -> None:
    page = ROOT / name
    if not page.is_file():
        pytest.skip("needs the repository")
    from segkernel import errors, hookspecs
    from segkernel.catalog import GROUPS

    hooks = [name for name in vars(hookspecs.Moments) if not name.startswith("_")]
    kinds = [key for key, value in vars(errors).items() if isinstance(value, type) and key.endswith("Error")]
    variables = ["SEGKERNEL_DISABLE", "SEGKERNEL_STRICT", "SEGKERNEL_PREFER"]
    wanted = [*(f"segkernel.{group}" for group in GROUPS), *hooks, *variables, *kinds, *hookspecs.Priority.__members__]
    text = page.read_text("utf-8")
    assert [word for word in wanted if f"`{word}`" not in text] == []


def test_a_run_says_what_the_config_sets_before_it_builds_anything(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text("data: {num_classes: 3, task: null, val: {type: T}}\nschedule: {iterations: 7}\n")
    pytest.importorskip("torch")
    monkeypatch.setattr("segkernel.experiment.run", lambda config, **_: SimpleNamespace(is_main=False))
    done = CliRunner().invoke(run.command, [str(tmp_path / "x.yaml")])
    facts = "num_classes 3, val T, iterations 7"
    assert done.output == f"loading {tmp_path / 'x.yaml'}: {facts}\nfiles go to work_dirs/x\n"
