"""``seg-kernel data check``: the mask doctor.

seg-kernel data check my.yaml
seg-kernel data check --images photos --masks labels --classes wall,door
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from segplug_datasets.commands.target import inspect_with_progress, resolve, target_options


@click.command("check")
@target_options
@click.option("--workers", type=click.IntRange(0), help="Worker processes. [default: one per CPU]")
@click.option("--write-split", metavar="FILE", help="Write the names of the valid samples, for 'split' of a data set.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(workers: int | None, write_split: str | None, as_json: bool, **where: Any) -> int:
    """Find problems in images and masks, and the config lines that fix them.

    Checks the sets of CONFIG, two folders, or a data set class. The exit code is 1 when there is an error, else 0.

    \b
    Examples:
      seg-kernel data check my.yaml
      seg-kernel data check --images photos --masks masks --classes background,crop,weed
    """
    from segplug_datasets.doctor.report import check, write_splits

    parts, _ = resolve(**where)
    inspected = inspect_with_progress(parts, workers)
    report = check(inspected)
    written = write_splits(inspected, Path(write_split)) if write_split else []
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=1))
    else:
        click.echo(report.text())
        for path in written:
            click.echo(f"wrote {path}")
        click.echo("\nnext: fix the errors and check again" if report.failed else "\nnext: seg-kernel data browse")
    return int(report.failed)
