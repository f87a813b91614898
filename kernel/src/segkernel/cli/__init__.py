"""The command line, ``seg-kernel``: one file per command, imported when the command is used.

    seg-kernel run quickstart --work-dir work_dirs/first

Commands of plugins come through the entry-point group ``segkernel.commands`` and are listed without being imported.
"""

from __future__ import annotations

import argparse
import ast
import atexit
import gc
import importlib
import logging
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import PathFinder
from typing import Any

import click

from segkernel import __version__
from segkernel.catalog import Catalog, Row
from segkernel.errors import SegKernelError, UnknownComponentError, UsageError, suggest, worker_crash_of

COMMANDS = ("run", "config", "plugins")
"""The kernel's own commands, each in ``segkernel.cli.NAME``."""


def SIZE(value: str) -> tuple[int, int]:
    """Type of an option that is a height and width in pixels, ``512x1024``."""
    if (match := re.fullmatch(r"0*([1-9]\d*)x0*([1-9]\d*)", value.lower())) is None:
        raise click.BadParameter(f"{value!r} is not HEIGHTxWIDTH, such as 512x1024")
    return int(match[1]), int(match[2])


CONFIG = click.argument("config", help="A YAML file, or the name of a packaged config.")
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", help="Changes: seed=3, +NEW=1, ~REMOVED.")
"""For every command that runs a config."""

TRUST = click.option("--trust", is_flag=True, help="Let the config inside the file run code and name files.")
"""For every command that opens a checkpoint or an exported file."""

DEVICE = click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps. [default: best available]")
RANDOM_WEIGHTS = click.option("--random-weights", is_flag=True, help="Allow a config without weights: a random model.")
"""For every command that opens a model."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with one of the documented codes."""
    shared = argparse.ArgumentParser("seg-kernel", add_help=False, allow_abbrev=False)
    shared.add_argument("--log-level", type=str.upper, choices=("DEBUG", "INFO", "WARNING", "ERROR"), default="INFO")
    shared.add_argument("--traceback", action="store_true")
    shared.add_argument("--launch", metavar="N")
    for flag, command in {"--dry-run": "dry-run", "--install-completion": "completion"}.items():
        shared.add_argument(flag, dest="command", action="store_const", const=[command], default=[])
    options, rest = shared.parse_known_args(arguments)
    # Unlike a new one, it writes to what sys.stderr is at the time, which a live progress bar replaces.
    handler = logging.lastResort or logging.StreamHandler()
    handler.setLevel(options.log_level)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=options.log_level, handlers=[handler])
    rest = [*([] if options.launch is None else ["launch", options.launch]), *options.command, *rest]
    atexit.register(gc.freeze)  # else Python looks for cycles among torch's objects at exit, for a third of a second
    try:
        result = cli.main(args=rest, prog_name="seg-kernel", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if options.traceback:
            traceback.print_exc()
        result = _report(error)
    sys.exit(result if type(result) is int else 0)


def _report(error: BaseException) -> int:
    """Print an error to stderr and return the exit code; errors that no user can cause are re-raised."""
    error = worker_crash_of(error) or error  # torch's signal handler may raise it while a run is being closed
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        click.echo("Error: interrupted", err=True)
        return 130
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("segkernel"):
        name = str(error.name).partition(".")[0]
        click.echo(f"Error: this command needs {name!r}, which is not installed\n    pip install {name}", err=True)
        return 3
    if isinstance(error, OSError) and error.strerror:  # a full disk, a folder without write permission
        click.echo(f"Error: {error.filename or 'a file'}: {error.strerror}", err=True)
        return 1
    if not isinstance(error, SegKernelError):
        raise error
    if not error.reported:
        # 3 may be that of the discovery itself, in strict mode; its messages have their remedy.
        hint = f"\n{Catalog.discover().moved(f'Error: {error}')}".rstrip() if error.exit_code != 3 else ""
        click.echo(f"Error: {error}{hint}", err=True)
    return error.exit_code


class LazyGroup(click.Group):
    """Imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the kernel's commands, then those of plugins."""
        return [*COMMANDS, *self._of_plugins()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command.

        Raises:
            ComponentError: When its plugin is missing, broken or incompatible.
        """
        return importlib.import_module(f"segkernel.cli.{name}").command if name in COMMANDS else _of_plugin(name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with the first line of their help, without importing them."""
        own = [(name, _summary(f"segkernel.cli.{name}:command")) for name in COMMANDS]
        others = [(name, _summary(row.value) or f"from {row.distribution}") for name, row in self._of_plugins().items()]
        with formatter.section("Commands"):
            formatter.write_dl([*own, *others])

    def _of_plugins(self) -> dict[str, Row]:
        """Return the rows of plugins' commands by name; an ambiguous name is written in full."""
        rows = Catalog.discover().rows_of("commands")
        taken = [*COMMANDS, *(row.name for row in rows)]
        return {row.name if taken.count(row.name) == 1 else row.qualified: row for row in rows}


def _summary(value: str) -> str:
    """Return the first line of the docstring of ``module:command``, "" if there is none.

    It is read from the source, because importing the module may take seconds.
    """
    module, _, name = value.replace(" ", "").partition(":")
    spec: Any = None
    try:
        for part in module.split("."):
            spec = PathFinder.find_spec(part, spec and spec.submodule_search_locations)
        body = ast.parse(spec.loader.get_source(part)).body
        texts = [ast.get_docstring(node) for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
        return " ".join(str(texts[0] or "").partition("\n\n")[0].split())
    except Exception:  # a damaged plugin, or a command that is not a function with a docstring
        return ""


def _of_plugin(name: str) -> click.Command:
    """Import a plugin's command."""
    catalog = Catalog.discover()
    try:
        found = catalog.load("commands", name)
    except UnknownComponentError:
        near = suggest(name, [*COMMANDS, *catalog.names("commands")], "")
        hint = catalog.moved(f"seg-kernel {name}") or near or "see seg-kernel --help"
        raise UsageError(f"no command is called {name!r}; {hint}") from None
    if not isinstance(found, click.Command):
        raise UsageError(f"the entry point of {name!r} must be a click command, not a {type(found).__name__}")
    return found


class _Formatter(logging.Formatter):
    """Plain text, with the level if it is not INFO."""

    def format(self, record: logging.LogRecord) -> str:
        return ("" if record.levelno == logging.INFO else f"{record.levelname.lower()}: ") + super().format(record)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="seg-kernel", message="%(prog)s %(version)s")
def cli() -> None:
    """Train, test and deploy segmentation models from installed plugins.

    Anywhere on the line: --log-level debug, info, warning or error sets the level of messages on stderr (info by
    default); --traceback shows where an error was raised; --launch N runs the command as N processes on this machine.
    --install-completion makes the Tab key complete commands, options, config names and keys in this shell.

    \b
    Examples:
      seg-kernel run quickstart              train a small model on made-up images
      seg-kernel init my_photos              write a config for your own images
      seg-kernel predict RUN_DIR photo.jpg   predict with the best weights of a run
      seg-kernel COMMAND --help              options and examples of a command

    \b
    Exit codes: 0 done; 1 the run, its data or a checkpoint failed; 2 usage or config;
    3 a plugin is missing, broken or incompatible; 130 SIGINT; 143 SIGTERM.
    """
