"""``seg-kernel rerun``: repeats a run from its directory, and lists what has changed since.

seg-kernel rerun work_dirs/roads/20261129_120000
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkernel.cli import OVERRIDES
from segkernel.errors import DataError

if TYPE_CHECKING:
    from segkernel import Runner

NOT_COMPARED = ("command", "seed")
RECORDS = ("plugins.json", "environment.json", "data.json")


@click.command("rerun")
@click.argument(
    "source",
    metavar="RUN",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A run directory.",
)
@OVERRIDES
@click.option("--work-dir", metavar="DIR", help="Run directory. [default: RUN_rerun]")
@click.option("--check", is_flag=True, help="Only list what has changed.")
def command(source: Path, overrides: tuple[str, ...], work_dir: str | None, check: bool) -> None:
    """Repeat the run in the directory RUN from its record: its config with all overrides, and its seed.

    First lists what has changed: versions, device, data, the code's commit. --check exits with 1 if anything has.

    \b
    Examples:
      seg-kernel rerun work_dirs/NAME/TIME
      seg-kernel rerun work_dirs/NAME/TIME --check
    """
    from segkernel import build
    from segkernel.experiment import export, make_runner
    from segkernel.loading import catalog_of

    config = load_record(source, overrides)
    click.echo(f"loading {source}, and comparing data and environment with its record", err=True)
    runner = make_runner(config, work_dir or _free_sibling(source))
    lines = differences(source, runner)
    if runner.is_main:
        click.echo("differs from the recorded run:\n    " + "\n    ".join(lines) if lines else "no differences")
    if check:
        click.get_current_context().exit(1 if lines else 0)
    if config.get("load_from"):
        with catalog_of(config).active():
            runner.load_weights(config["load_from"])
    runner.run()
    for spec in (config.get("export") or ()) if runner.is_main else ():
        export(runner, build("exporters", spec, catalog=catalog_of(config)))
    if runner.is_main:
        click.echo(f"run directory  {runner.work_dir}")


def load_record(source: Path, overrides: tuple[str, ...] = ()) -> Any:
    """Return the config that a run was started with.

    Raises:
        DataError: When the directory has none.
    """
    from segkernel import load_config

    path = source / "config.yaml"
    if not path.exists():
        raise DataError("no config.yaml in it: not a run directory, or that of a run built from objects", source)
    config = load_config(path)
    own = ["~work_dir"] if "work_dir" in config else []  # the directory of the recorded run
    config = load_config(path, [*own, *overrides])
    config.name = source.resolve().parent.name
    return config


def differences(source: Path, runner: Runner) -> list[str]:
    """Return a line for each difference from the record of a run."""
    from segkernel.catalog import Catalog
    from segplug_training import requirements
    from segplug_training.provenance import compare, fingerprints
    from segplug_training.record import environment

    plugins = Catalog.current().versions()
    now: tuple[Mapping[str, Any], ...] = (plugins, environment(runner), fingerprints(runner))
    lines: list[str] = []
    for name, found in zip(RECORDS, now):
        lines += compare(_compared(_read(source / name)), _compared(json.loads(json.dumps(found, default=str))))
    if (file := source / "requirements.txt").exists():
        others = [requirements.read_text(file.read_text("utf-8")), requirements.locked(plugins)]
        listed = {*plugins, *now[1]}
        before, after = ({name: each[name] for name in each if name not in listed} for each in others)
        lines += compare(before, after)
    resumed = sorted(path.name for path in source.glob("config_from_*.yaml"))
    return lines + [f"{name}: the run was resumed with this config; the rerun uses config.yaml" for name in resumed]


def _compared(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in NOT_COMPARED}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", path) from error


def _free_sibling(source: Path) -> Path:
    """Return a sibling directory that does not exist yet."""
    source = source.resolve()
    names = itertools.chain(["_rerun"], (f"_rerun{number}" for number in itertools.count(2)))
    return next(path for path in (source.with_name(source.name + name) for name in names) if not path.exists())
