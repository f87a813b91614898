"""``seg-kernel runs``: the runs in a folder, with their best metric, state and the command that resumes each.

seg-kernel runs work_dirs/my
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from segkernel.cli import table
from segkernel.config.text import read_file
from segkernel.errors import UsageError
from segplug_training.resume import resume_command

_BEST = re.compile(r"best_(.+)_iter_(\d+)\.pt")


@dataclass(frozen=True)
class RunRow:
    """A run.

    Args:
        name: Its directory, relative to the folder that was searched.
        date: When its log or a metric was last written, ``2026-11-21 12:00``.
        best: The best validation metric and its iteration, ``mIoU 74.50 at 800``; empty if there was none.
        state: ``running``, ``finished``, ``stopped early``, ``interrupted at 4 of 10``, ``test`` or ``not started``.
        resume: The command that continues it; empty if there is nothing to continue.
    """

    name: str
    date: str
    best: str
    state: str
    resume: str


@click.command("runs")
@click.argument(
    "folder", default="work_dirs", type=click.Path(path_type=Path), help="The folder that contains the runs."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER, work_dirs by default: date, best metric, state, and the command that resumes each.

    \b
    Examples:
      seg-kernel runs
      seg-kernel runs work_dirs/my
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; runs are in work_dirs/NAME/TIME, or where --work-dir said")
    rows = sorted((describe(path, folder) for path in find_runs(folder)), key=lambda row: row.date, reverse=True)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    if not rows:
        click.echo(f"{folder} contains no runs\nnext: seg-kernel run CONFIG")
        return
    click.echo(table([("name", "date", "best", "state"), *((r.name, r.date, r.best, r.state) for r in rows)]))
    unfinished = [row for row in rows if row.resume]
    if unfinished:
        click.echo("\nto resume:")
        click.echo("\n".join(f"    {row.resume}" for row in unfinished))
    click.echo(f"\nnext: seg-kernel plot {folder / next((row.name for row in rows if row.best), rows[0].name)}")


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the run directories in a folder, or the folder itself; directories inside a run are not searched."""
    try:
        with os.scandir(folder) as entries:
            kinds = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    except OSError:  # a folder of somebody else, or one that has just been deleted
        return
    if kinds.get("checkpoints") and "log.txt" in kinds:
        yield folder
        return
    for name in sorted(name for name, is_folder in kinds.items() if is_folder):
        yield from find_runs(folder / name)


def describe(run: Path, folder: Path) -> RunRow:
    """Return the row of a run; files that are missing or damaged count as not written."""
    records = _records(run / "metrics.jsonl")
    written = [path.stat().st_mtime for path in (run / "log.txt", run / "metrics.jsonl") if path.is_file()]
    state = "running" if _is_locked(run) else _state(run, records)
    ended = state in ("running", "finished", "stopped early", "test")
    name = str(run.relative_to(folder)) if run != folder else run.name
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(written, default=run.stat().st_mtime)))
    return RunRow(name, date, _best(run, records), state, "" if ended else resume_command(run))


def _records(path: Path) -> list[dict[str, Any]]:
    found = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # a killed run may leave its last line incomplete
            continue
        if isinstance(record, dict) and isinstance(record.get("iteration"), int):
            found.append(record)
    return found


def _best(run: Path, records: list[dict[str, Any]]) -> str:
    """Return the metric whose best checkpoint was kept, else the highest mIoU of a validation or test."""
    kept = sorted(path.name for path in run.glob("checkpoints/best_*_iter_*.pt"))
    for name in kept:
        if match := _BEST.fullmatch(name):
            metric, iteration = match[1], int(match[2])
            values = [one.get(metric) for one in records if (one.get("kind"), one["iteration"]) == ("val", iteration)]
            if values and isinstance(values[-1], int | float):
                return f"{metric} {values[-1]:.2f} at {iteration}"
    found = [(one["mIoU"], one["iteration"]) for one in records if isinstance(one.get("mIoU"), int | float)]
    return "mIoU {:.2f} at {}".format(*max(found)) if found else ""


def _state(run: Path, records: list[dict[str, Any]]) -> str:
    trained = [record for record in records if record.get("kind") == "train"]
    names = [path.stem.partition("_")[2] for path in sorted(run.glob("checkpoints/iter_*.pt"))]
    saved = [int(name) for name in names if name.isdigit()]
    if not trained and not saved:
        return "test" if records else "not started"
    last = trained[-1] if trained else {"iteration": saved[-1]}
    length, unit = _length(run, last)
    epoch = last.get("epoch")
    epoch = epoch if isinstance(epoch, int | float) else 0.0
    if (last["iteration"] if unit == "iterations" else epoch) >= length:
        return "finished"
    reason = _stop_reason(run / "log.txt")
    if reason and not reason.startswith("signal"):
        return "stopped early"
    if unit == "epochs":
        return f"interrupted in epoch {epoch:.1f} of {length:g}"
    return f"interrupted at {max([last['iteration'], *saved])} of {length:g}"


def _length(run: Path, last: Mapping[str, Any]) -> tuple[float, str]:
    """Return the length of a run and its unit, from the recorded config; without one, that of its last record."""
    newest = max(run.glob("config*.yaml"), key=lambda path: path.stat().st_mtime, default=run / "config.yaml")
    config = read_file(newest, str(newest), []) if newest.is_file() else None
    schedule = config.get("schedule") if config else None
    for unit in ("iterations", "epochs"):
        value = schedule.get(unit) if isinstance(schedule, Mapping) else None
        if isinstance(value, int | float) and math.isfinite(value):
            return value, unit
    return last["iteration"], "iterations"


def _stop_reason(log: Path) -> str:
    """Return why the run stopped before its last iteration, from its log; "" if it did not say so."""
    try:
        text = log.read_text("utf-8", errors="replace")
    except OSError:
        return ""
    found = re.findall(r"stopping after iteration \d+: (.*)", text)
    return found[-1] if found else ""


def _is_locked(run: Path) -> bool:
    """Whether a process holds the lock of the directory; never waits for it."""
    try:
        import fcntl

        with (run / ".lock").open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_UN)
    except (ImportError, FileNotFoundError, PermissionError):
        return False
    except OSError:
        return True
    return False
