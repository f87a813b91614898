"""``seg-kernel models``: the configs of the zoo, by name."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from segkernel.cli import table

if TYPE_CHECKING:
    from segkernel.config.experiments import Experiment


class _Models(click.Group):
    """A group whose argument may also be a pattern: ``models 'pspnet*'`` is ``models list 'pspnet*'``."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["list", *args]
        return super().resolve_command(ctx, args)


@click.group("models", cls=_Models, invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the configs of the zoo: models [GLOB]; or show one: models show NAME."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_models)


@command.command("list")
@click.argument("pattern", required=False, metavar="[GLOB]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(pattern: str | None = None, as_json: bool = False) -> None:
    """List names, families, data sets and published mIoU; GLOB without a star matches anywhere."""
    from segkernel.config.experiments import list_experiments
    from segkernel.config.zoo import find_zoos
    from segkernel.errors import UsageError, suggest

    entries = list(list_experiments(find_zoos()))
    glob = pattern if pattern and set(pattern) & set("*?[") else f"*{pattern or ''}*"
    chosen = [entry for entry in entries if fnmatchcase(entry.name, glob)]
    if not chosen and pattern:
        hint = suggest(pattern, [entry.name for entry in entries]) or "no package with configs is installed"
        raise UsageError(f"no model matches {pattern!r}; {hint}")
    rows = [_row(entry) for entry in chosen]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    click.echo(table([("name", "family", "data", "mIoU", "from"), *(list(map(_cell, row.values())) for row in rows)]))
    click.echo(f"\n{len(rows)} configs; any MODEL_SCHEDULE_DATA of their parts works, too")
    click.echo("next: seg-kernel models show NAME, seg-kernel run NAME" if rows else "next: pip install segplug-heads")


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the parts of a model, its paper, its published scores and where it is."""
    from segkernel.config.experiments import find_experiment
    from segkernel.config.marks import plain
    from segkernel.config.zoo import find_zoos

    entry = find_experiment(name, find_zoos())
    facts: dict[str, Any] = {"name": entry.name, "family": entry.family.name if entry.family else None}
    facts |= {"variant": entry.variant, "schedule": entry.schedule, "data": entry.data}
    facts |= {"listed at": entry.place, "file": str(entry.path), **plain(entry.meta())}
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        if value is not None:
            click.echo(f"{key:<12} {_cell(value)}")
    click.echo(f"next         seg-kernel config show {entry.name}, seg-kernel run {entry.name}")


def _row(entry: Experiment) -> dict[str, Any]:
    family = entry.family.name if entry.family else None
    score = entry.meta().get("mIoU")
    return {"name": entry.name, "family": family, "data": entry.data, "mIoU": score, "from": entry.zoo.name}


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    return "-" if value is None else str(value)
