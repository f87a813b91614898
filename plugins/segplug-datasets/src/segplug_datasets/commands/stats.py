"""``seg-kernel data stats``: statistics of a data set, and config lines that use them.

seg-kernel data stats my.yaml --set train
"""

from __future__ import annotations

import json
from typing import Any

import click

from segkernel.errors import UsageError
from segplug_datasets.commands.target import inspect_with_progress, resolve, target_options

RULES = ("inverse_sqrt", "median_frequency", "enet", "effective_number")


@click.command("stats")
@target_options
@click.option("--set", "chosen", metavar="NAME", help="Only this set: train, val or test.")
@click.option("--weights", type=click.Choice(RULES), default="median_frequency", help="Rule of class_weight.")
@click.option("--workers", type=click.IntRange(0), help="Worker processes. [default: one per CPU]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(chosen: str | None, weights: str, workers: int | None, as_json: bool, **where: Any) -> None:
    """Measure mean and standard deviation per band, pixels and images per class, sizes, and class weights.

    Measures the sets of CONFIG, two folders, or a data set class; the config lines are for the first of them.

    \b
    Examples:
      seg-kernel data stats my.yaml
      seg-kernel data stats --images photos --masks masks --classes background,crop,weed
    """
    from segplug_datasets.doctor.stats import as_dict, as_text, config_lines, measure

    parts, _ = resolve(**where)
    names = list(dict.fromkeys(part.set for part in parts))
    if chosen is not None and chosen not in names:
        raise UsageError(f"no set is called {chosen!r}; there are {', '.join(names)}")
    inspected = inspect_with_progress([part for part in parts if chosen in (None, part.set)], workers)
    stats = measure(inspected)
    if as_json:
        click.echo(json.dumps([as_dict(one) for one in stats], indent=1))
        return
    click.echo("\n\n".join(as_text(one) for one in stats))
    click.echo(f"\n# from {stats[0].set}\n{config_lines(stats[0], weights)}")
