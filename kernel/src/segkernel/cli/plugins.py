"""``seg-kernel plugins``: what is installed, and whether it works."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from segkernel import __version__, known
from segkernel.catalog import GROUPS, Catalog, Row, normalise
from segkernel.cli import table
from segkernel.errors import NotInstalledError, SegKernelError, UsageError, did_you_mean, suggest

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
NOT_COMPONENTS = ("zoo", "commands")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the installed plugins: version, status, accepted kernels, what each offers. Imports none of them."""
    if ctx.invoked_subcommand is None:
        catalog = Catalog.discover()
        rows = [_rows_of(catalog, distribution) for distribution in _distributions(catalog)]
        if as_json:
            _write({"kernel": __version__, "plugins": [_as_data(found) for found in rows]})
        else:
            _print_list(catalog, rows)


@command.command()
@click.argument("distribution")
@json_option
def show(distribution: str, as_json: bool) -> None:
    """List what one DISTRIBUTION offers, without importing it."""
    rows = _wanted(Catalog.discover(), distribution)
    if as_json:
        _write(_as_data(rows))
    else:
        _print_rows(rows)


@command.command()
@click.argument("distribution", required=False)
@click.option("--deep", is_flag=True, help="Build every component and run the conformance kit on it.")
@json_option
@click.pass_context
def check(ctx: click.Context, distribution: str | None, deep: bool, as_json: bool) -> None:
    """Import everything that DISTRIBUTION, or every plugin, offers; exit with 3 when something fails."""
    catalog = Catalog.discover()
    findings: list[Finding] = []
    for name in [normalise(distribution)] if distribution else _distributions(catalog):
        found = list(_check(catalog, _wanted(catalog, name), deep))
        findings += found
        if not as_json:
            _print_findings(name, found)
    if as_json:
        _write([asdict(finding) for finding in findings])
    if any(finding.status == "failed" for finding in findings):
        ctx.exit(3)


@dataclass(frozen=True)
class Finding:
    """What a check found: ``component`` is ``heads/PSPHead``, ``status`` passed, failed, expected or skipped."""

    distribution: str
    component: str
    check: str
    status: str
    message: str = ""


def _check(catalog: Catalog, rows: Sequence[Row], deep: bool) -> Iterable[Finding]:
    name = rows[0].distribution
    if rows[0].status != "ok":
        disabled = rows[0].status == "disabled"
        refused = f"accepts seg-kernel {rows[0].requires}, not {__version__}"
        text = "hidden by SEGKERNEL_DISABLE" if disabled else refused
        yield Finding(name, "package", "status", "skipped" if disabled else "failed", text)
        return
    if deep:
        from segkernel.testing import check_distribution

        for result in check_distribution(name, catalog):
            yield Finding(name, result.component, result.check, result.status, result.message)
        return
    count = Counter((row.group, row.name) for row in rows)
    for row in rows:
        flaw = _flaw(catalog, row, count[row.group, row.name])
        yield Finding(name, f"{row.group}/{row.name}", "loads", "failed" if flaw else "passed", flaw)


def _flaw(catalog: Catalog, row: Row, offered: int) -> str:
    """Return what is wrong with an entry point, or nothing."""
    if row.group not in GROUPS:
        return f"no such group: {row.group}; {suggest(row.group, GROUPS)}"
    if not row.name or set(row.name) & set(" /:"):
        return "a name may not hold a space, a slash or a colon: it could not be written in a config"
    if offered > 1:
        return f"the distribution offers this name {offered} times; this one is {row.value}"
    if row.group == "zoo":
        return ""
    try:
        target = catalog.load_row(row)
    except SegKernelError as error:
        return str(error).splitlines()[0]
    return _signature_flaw(target) if row.group not in NOT_COMPONENTS else ""


def _signature_flaw(target: Any) -> str:
    from segkernel.signature import Unresolved, signature

    if not callable(target):
        return f"it is no class or function but a {type(target).__name__}"
    found = signature(target)
    if found.open:
        return f"its constructor takes an open {found.open}: annotate it with Unpack[a TypedDict]"
    bad = [p for p in found.values() if isinstance(p.annotation, Unresolved)]
    return "; ".join(f"annotation of {p.name!r}, {p.annotation.text}: {p.annotation.reason}" for p in bad)


def _wanted(catalog: Catalog, distribution: str) -> list[Row]:
    name = normalise(distribution)
    rows = _rows_of(catalog, name)
    if rows:
        return rows
    if name in known.table():
        raise NotInstalledError("plugins", name, name)
    near = did_you_mean(name, _distributions(catalog)) or _distributions(catalog)
    raise UsageError(f"no installed distribution {name!r} offers components; there is {', '.join(near) or 'none'}")


def _distributions(catalog: Catalog) -> list[str]:
    return sorted({row.distribution for row in catalog.rows})


def _rows_of(catalog: Catalog, distribution: str) -> list[Row]:
    order = [*GROUPS, *(row.group for row in catalog.rows)]
    rows = [row for row in catalog.rows if row.distribution == distribution]
    return sorted(rows, key=lambda row: (order.index(row.group), row.name))


def _ambiguous(catalog: Catalog) -> list[tuple[str, str, list[str]]]:
    rows = (row for group in GROUPS for row in catalog.rows_of(group))  # those of one name stand together
    named = itertools.groupby(rows, lambda row: (row.group, row.name))
    several = ((group, name, [row.distribution for row in offered]) for (group, name), offered in named)
    return [entry for entry in several if len(entry[2]) > 1 and not set(entry[2]) & set(catalog.preferred)]


def _as_data(rows: Sequence[Row]) -> dict[str, Any]:
    first = rows[0]
    return {
        "distribution": first.distribution,
        "version": first.version,
        "status": first.status,
        "requires": first.requires,
        "offers": [{"group": row.group, "name": row.name, "value": row.value} for row in rows],
    }


def _print_list(catalog: Catalog, rows: Sequence[Sequence[Row]]) -> None:
    lines = [("distribution", "version", "status", "kernel", "offers")]
    for first, *others in rows:
        offers = Counter(row.group for row in (first, *others))
        summary = ", ".join(f"{group} {count}" for group, count in offers.items())
        lines.append((first.distribution, first.version, first.status, first.requires or "any", summary))
    click.echo(table(lines))
    for group, name, owners in _ambiguous(catalog):
        click.echo(f"{name} ({group}) is offered by {' and '.join(owners)}: write {owners[0]}/{name}")
    click.echo("\nnext: seg-kernel plugins show DISTRIBUTION, or seg-kernel plugins check")


def _print_rows(rows: Sequence[Row]) -> None:
    first = rows[0]
    accepts = f"accepts seg-kernel {first.requires or 'any'} ({__version__} is running)"
    click.echo(f"{first.distribution} {first.version}: {first.status}, {accepts}")
    for group, members in itertools.groupby(rows, lambda row: row.group):
        click.echo(f"\n{group}\n" + table([(f"  {row.name}", row.value) for row in members]))
    click.echo(f"\nnext: seg-kernel plugins check {first.distribution}")


def _print_findings(name: str, findings: Sequence[Finding]) -> None:
    count = Counter(finding.status for finding in findings)
    click.echo(f"{name}: " + ", ".join(f"{number} {status}" for status, number in count.items()))
    for finding in findings:
        if finding.status != "passed":
            click.echo(f"  {finding.status} {finding.component} {finding.check}: {finding.message}")


def _write(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))
