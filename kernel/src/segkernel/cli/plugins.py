"""``seg-kernel plugins``: list and check the installed plugins."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from segkernel import __version__, known
from segkernel.catalog import GROUPS, Catalog, Row, normalise
from segkernel.cli import table
from segkernel.errors import AmbiguousComponentError, NotInstalledError, UsageError, did_you_mean

if TYPE_CHECKING:
    from segkernel.testing import CheckResult

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the installed plugins: version, status, accepted kernels, and components, without importing them.

    \b
    Examples:
      seg-kernel plugins
      seg-kernel plugins show segplug-heads
      seg-kernel plugins check segplug-heads --deep
    """
    if ctx.invoked_subcommand is None:
        catalog = Catalog.discover()
        if as_json:
            plugins = list(map(_as_data, _offers(catalog).values()))
            click.echo(json.dumps({"kernel": __version__, "plugins": plugins}, indent=2))
        else:
            _print_list(catalog)


@command.command()
@click.argument("distribution", help="A package: segplug-heads.")
@json_option
def show(distribution: str, as_json: bool) -> None:
    """List the components of one DISTRIBUTION, without importing it.

    \b
    Examples:
      seg-kernel plugins show segplug-heads
    """
    first, *_ = rows = _wanted(Catalog.discover(), distribution)
    if as_json:
        click.echo(json.dumps(_as_data(rows), indent=2))
        return
    accepts = f"accepts seg-kernel {first.requires or 'any'} ({__version__} is running)"
    click.echo(f"{first.distribution} {first.version}: {first.status}, {accepts}")
    for group, members in itertools.groupby(rows, lambda row: row.group):
        click.echo(f"\n{group}\n" + table([(f"  {row.name}", row.value) for row in members]))
    click.echo(f"\nnext: seg-kernel plugins check {first.distribution}")


@command.command()
@click.argument("distribution", required=False, help="A package; all if left out.")
@click.option("--deep", is_flag=True, help="Build every component and run the conformance kit on it.")
@json_option
@click.pass_context
def check(ctx: click.Context, distribution: str | None, deep: bool, as_json: bool) -> None:
    """Import all components of DISTRIBUTION, or of every plugin; exit with 3 when one fails.

    \b
    Examples:
      seg-kernel plugins check
      seg-kernel plugins check segplug-heads --deep
    """
    from segkernel.testing import check_distribution

    catalog, results = Catalog.discover(), list[dict[str, Any]]()
    for name in [_wanted(catalog, distribution)[0].distribution] if distribution else _offers(catalog):
        click.echo(f"checking {name}", err=True)
        found = check_distribution(name, catalog, deep)
        results += [{"distribution": name, **asdict(result)} for result in found]
        if not as_json:
            _print_results(name, found)
    if as_json:
        click.echo(json.dumps(results, indent=2))
    failed = any(result["status"] == "failed" for result in results)
    step = "see docs/conformance.md" if failed else "publish it, see docs/plugins.md" if deep else "check with --deep"
    click.echo(f"next: {step}", err=as_json)
    ctx.exit(3 if failed else 0)


def _offers(catalog: Catalog) -> dict[str, list[Row]]:
    """Return the rows of each distribution, in the order of the groups."""
    order = [*GROUPS, *(row.group for row in catalog.rows)]
    rows = sorted(catalog.rows, key=lambda row: (row.distribution, order.index(row.group), row.name))
    return {name: list(offered) for name, offered in itertools.groupby(rows, lambda row: row.distribution)}


def _wanted(catalog: Catalog, distribution: str) -> list[Row]:
    name, offers = normalise(distribution), _offers(catalog)
    if name in offers:
        return offers[name]
    if name in known.table():
        raise NotInstalledError("plugins", name, name)
    raise UsageError(f"no plugin is called {name!r}; installed: {', '.join(did_you_mean(name, offers) or offers)}")


def _as_data(rows: Sequence[Row]) -> dict[str, Any]:
    own = [{key: getattr(row, key) for key in ("group", "name", "value")} for row in rows]
    return {key: getattr(rows[0], key) for key in ("distribution", "version", "status", "requires")} | {"offers": own}


def _print_list(catalog: Catalog) -> None:
    lines = [("distribution", "version", "status", "kernel", "offers")]
    for distribution, rows in _offers(catalog).items():
        summary = ", ".join(f"{group} {count}" for group, count in Counter(row.group for row in rows).items())
        lines.append((distribution, rows[0].version, rows[0].status, rows[0].requires or "any", summary))
    click.echo(table(lines))
    for group in GROUPS:
        for name, offered in itertools.groupby(catalog.rows_of(group), lambda row: row.name):
            try:
                catalog.settle(list(offered), name)
            except AmbiguousComponentError as error:
                click.echo(error)
    click.echo("\nnext: seg-kernel plugins show DISTRIBUTION, or seg-kernel plugins check")


def _print_results(name: str, results: Sequence[CheckResult]) -> None:
    counts = Counter(result.status for result in results).items()
    rows = [f"  {r.status} {r.component} {r.check}: {r.message}" for r in results if r.status != "passed"]
    click.echo("\n".join([f"{name}: " + ", ".join(f"{number} {status}" for status, number in counts), *rows]))
