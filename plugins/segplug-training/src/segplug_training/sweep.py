"""``seg-kernel sweep``: runs every combination of values with several seeds, or random ones, and tabulates the results.

seg-kernel sweep my.yaml --seeds 5 'optim.optimizer.lr=[1e-3,1e-4]'
seg-kernel sweep my.yaml --random 20 'optim.optimizer.lr=log(1e-5,1e-2)'
seg-kernel sweep 4xb2-20k_streetscenes --models pidnet-s,stdc1 schedule.iterations=300
"""

from __future__ import annotations

import csv
import json
import logging
import math
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkernel.cli import CONFIG
from segkernel.errors import DataError, Interrupted, SegKernelError, UsageError
from segplug_training.progress import is_of_one_class
from segplug_training.sweep_run import RESULT
from segplug_training.text_table import text_table

if TYPE_CHECKING:
    from segplug_training.combinations import Entry

log = logging.getLogger(__name__)

SPEC = "sweep_run.json"
SHOWN = 6
"""Metrics in the terminal's table; all are in the files."""


class SweepError(SegKernelError):
    """Some runs of a sweep failed; the others are finished."""


@click.command("sweep")
@CONFIG
@click.argument(
    "overrides",
    nargs=-1,
    metavar="[KEY=VALUE | KEY=[A,B]]...",
    help="Changes for all runs, and lists of values, of which all combinations run.",
)
@click.option(
    "--random", "draws", metavar="N", type=click.IntRange(1), help="Run N random combinations instead of all."
)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Runs of each combination.")
@click.option("--models", metavar="A,B", help="Zoo models; CONFIG is then the rest of the name, 4xb2-20k_streetscenes.")
@click.option("--pretrained", is_flag=True, help="Start models from their pretrained weights instead of random ones.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="[default: work_dirs/CONFIG_sweep]")
@click.option("--one", is_flag=True, hidden=True)
def command(
    config: str,
    overrides: tuple[str, ...],
    draws: int | None,
    seeds: int,
    models: str | None,
    pretrained: bool,
    out: Path | None,
    one: bool,
) -> None:
    """Run CONFIG once for every combination of the listed values and every seed, each in its own process.

    An interrupted sweep continues when started again: finished runs are not repeated. Write a list as a single value
    KEY=[[A,B]].

    --random N also takes ranges: KEY=log(LOW,HIGH) draws the logarithm, KEY=uniform(LOW,HIGH), KEY=int(LOW,HIGH). The
    values follow from the config's seed, and a larger N adds runs to the first ones.

    \b
    Examples:
      seg-kernel sweep my.yaml optim.optimizer.lr=[1e-3,1e-4] --seeds 3
      seg-kernel sweep my.yaml --random 20 'optim.optimizer.lr=log(1e-5,1e-2)'
    """
    from segplug_training.combinations import combinations, source_of, unequal
    from segplug_training.sweep_run import perform as perform_one

    if one:  # a process of the sweep
        perform_one(Path(config))
        return
    named = [model.strip() for model in (models or "").split(",") if model.strip()]
    entries = combinations(config, overrides, seeds, named, pretrained, draws)
    folder = out or Path("work_dirs") / f"{source_of(config)}_sweep"
    if named and (lines := unequal(entries)):
        click.echo(f"differs between models:\n{lines}\n")
    failed = perform(entries, folder, measure=bool(named))
    rows = summarize(entries, folder)
    write(rows, folder)
    click.echo(describe(rows))
    click.echo(f"wrote {folder / 'table.csv'} and {folder / 'table.json'}")
    if failed:
        raise SweepError(f"{len(failed)} of {len(entries)} runs failed:\n    " + "\n    ".join(failed))


def perform(entries: Sequence[Entry], folder: Path, measure: bool = False) -> list[str]:
    """Make the runs that are not finished; return a line for each that fails.

    Raises:
        Interrupted: When a signal ended a run.
        UsageError: When a directory contains the run of another config.
    """
    failed = []
    for number, entry in enumerate(entries, 1):
        if result_of(entry, folder) is not None:
            log.info("[%d/%d] %s is finished", number, len(entries), entry.name)
            continue
        log.info("[%d/%d] %s", number, len(entries), entry.name)
        code = _run(entry, folder, measure)
        if code in (-signal.SIGINT, -signal.SIGTERM, 130, 143):
            raise Interrupted(signal.SIGINT if code in (-signal.SIGINT, 130) else signal.SIGTERM)
        if code:
            lines = (folder / f"{entry.name}.txt").read_text("utf-8", "replace").splitlines()
            reason = next((line for line in reversed(lines) if "rror" in line), f"exit code {code}")
            failed.append(f"{entry.name}: {reason}")
    return failed


def _run(entry: Entry, folder: Path, measure: bool) -> int:
    """Make one run in its own process, whose output goes to a file next to its directory."""
    run_dir = folder / entry.name
    run_dir.mkdir(parents=True, exist_ok=True)
    spec = {"config": entry.config, "overrides": entry.overrides, "digest": entry.digest, "measure": measure}
    (run_dir / SPEC).write_text(json.dumps({**spec, "work_dir": str(run_dir)}, indent=2), "utf-8")
    return _process(run_dir / SPEC, folder / f"{entry.name}.txt")


def _process(spec: Path, output: Path) -> int:
    words = [sys.executable, "-m", "segkernel", "sweep", str(spec), "--one"]
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        with _ended_with_us(process):
            return process.wait()


@contextmanager
def _ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Forward SIGTERM to the run, and wait until it has saved its checkpoint."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    try:
        yield
    except KeyboardInterrupt:  # the terminal has sent it to the run as well
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def result_of(entry: Entry, folder: Path) -> dict[str, Any] | None:
    """Return the result of a run; None when it is not finished.

    Raises:
        UsageError: When the directory contains the run of another config.
    """
    spec, result = (_read(folder / entry.name / name) for name in (SPEC, RESULT))
    if spec is not None and spec.get("digest") != entry.digest:
        raise UsageError(
            f"{folder / entry.name}: contains the run of another config; choose another --out, or remove it"
        )
    return result


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", path) from error


# ---------------------------------------------------------------- the table


def summarize(entries: Sequence[Entry], folder: Path) -> list[dict[str, Any]]:
    """Return a row for each combination: ``varied``, ``runs``, and ``mean`` and ``deviation`` of every value.

    The deviation is the sample standard deviation, over n - 1; nan for a single run.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(json.dumps(entry.varied), []).append(entry)
    rows = []
    for group in groups.values():
        found = {entry.seed: result for entry in group if (result := result_of(entry, folder)) is not None}
        results = [{**result["metrics"], **result["cost"]} for result in found.values()]
        names = list(dict.fromkeys(name for each in results for name in each))
        values = {name: [each[name] for each in results if name in each] for name in names}
        rows.append(
            {
                "varied": group[0].varied,
                "runs": len(found),
                "mean": {name: statistics.fmean(numbers) for name, numbers in values.items()},
                "deviation": {name: _deviation(numbers) for name, numbers in values.items()},
                "seeds": dict(zip(found, results)),
            }
        )
    return rows


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan


def write(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write ``table.json`` and ``table.csv``."""
    clean = json.loads(json.dumps(rows), parse_constant=lambda name: None)  # JSON has no nan
    (folder / "table.json").write_text(json.dumps(clean, indent=2), "utf-8")
    keys = list(dict.fromkeys(key for row in rows for key in row["varied"]))
    names = list(dict.fromkeys(name for row in rows for name in row["mean"]))
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow([*keys, "runs", *(f"{name} {kind}" for name in names for kind in ("mean", "deviation"))])
        for row in rows:
            numbers = [row[kind].get(name, "") for name in names for kind in ("mean", "deviation")]
            table.writerow([*(row["varied"].get(key, "") for key in keys), row["runs"], *numbers])


def describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for a terminal, without the metrics of single classes."""
    keys = list(dict.fromkeys(key for row in rows for key in row["varied"]))
    names = list(dict.fromkeys(name for row in rows for name in row["mean"]))
    cost = ("params_M", "GFLOPs", "images_per_s", "seconds", "memory_MB")
    metrics = [name for name in names if name not in cost and not is_of_one_class(name, names)]
    shown = [*metrics[:SHOWN], *(name for name in cost if name in names)]
    header = [*(key if key.count(".") < 2 else key.rpartition(".")[2] for key in keys), "runs", *shown]
    cells = [
        [*(row["varied"].get(key, "") for key in keys), row["runs"], *(_cell(row, name) for name in shown)]
        for row in rows
    ]
    return text_table(header, cells)


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row["mean"]:
        return "-"
    mean, deviation = f"{row['mean'][name]:.4g}", row["deviation"][name]
    return mean if math.isnan(deviation) else f"{mean} ± {deviation:.2g}"
