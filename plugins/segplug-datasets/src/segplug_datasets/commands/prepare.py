"""``seg-kernel data prepare``: converts the download of a published data set into the layout of its class."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from segkernel.errors import DataError
from segplug_datasets.prepare import NAMES, Converter, Report, find, prepare


def _list(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    for converter in map(find, NAMES):
        click.echo(_described(converter))
    ctx.exit()


@click.command("prepare", no_args_is_help=True)
@click.argument("name", help="The data set, one of those listed here.")
@click.argument(
    "source",
    type=click.Path(path_type=Path),
    help="The folder with the downloaded archives or their contents, or one archive.",
)
@click.argument("dest", type=click.Path(path_type=Path), help="The folder to write.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    show_default="one per CPU",
    help="Number of threads.",
)
@click.option("--force", is_flag=True, help="Overwrite files of earlier runs.")
@click.option("--partial", is_flag=True, help="Accept missing labels and other numbers of images than published.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="List the data sets.")
def command(name: str, source: Path, dest: Path, workers: int, force: bool, partial: bool) -> None:
    """Convert the download of the data set NAME in SOURCE into the layout of its class in DEST.

    SOURCE is a folder with the downloaded archives, or with their contents, or one archive. An interrupted run can be
    resumed. At the end the numbers of images are compared with the published ones.

    \b
    Examples:
      seg-kernel data prepare --list
      seg-kernel data prepare drive downloads data
    """
    converter = find(name)
    with _Bar(converter.name) as bar:
        report = prepare(converter, source, dest, workers, force, bar.show)
    click.echo(f"{report.made} made, {report.kept} kept from before")
    for part, count in report.counts.items():
        click.echo(f"  {part:<6} {count} images")
    _refuse(report, dest, partial)
    click.echo(f"\n{_next(converter, dest / converter.root)}")


def _next(converter: Converter, root: Path) -> str:
    """Return the config that reads the result, and the command that checks it."""
    kind = converter.reads.partition(",")[0]
    further = f", {converter.arguments}" if converter.arguments else ""
    lines = [f"read it with  {{type: {kind}, data_root: {root}{further}}}"]
    if not converter.arguments:
        lines.append(f"look at it    seg-kernel data check --type {kind} --root {root}")
    return "\n".join(lines)


def _refuse(report: Report, dest: Path, partial: bool) -> None:
    """Raise a `DataError` when files failed, or the result is incomplete without ``partial``."""
    if report.failed:
        shown = "\n    ".join([*report.failed[:10], *(["..."] if len(report.failed) > 10 else [])])
        raise DataError(f"{len(report.failed)} files could not be converted:\n    {shown}", dest)
    if report.odd and not partial:
        odd = "\n    ".join(report.odd)
        hint = "complete the download and run again, or accept the incomplete set with --partial"
        raise DataError(f"differs from the published data set:\n    {odd}\n    {hint}", dest)
    for line in report.odd:
        click.echo(f"warning: {line}", err=True)


def _described(converter: Converter) -> str:
    counts = ", ".join(f"{part.name} {' or '.join(map(str, part.count))}" for part in converter.parts)
    lines = [
        f"{converter.name}: {converter.title}",
        f"    from   {converter.download}",
        f"    at     {converter.homepage} ({converter.terms})",
        f"    gives  {counts}; {converter.reads}",
    ]
    return "\n".join(lines)


class _Bar:
    """A progress bar on stderr, in terminals only; its length is known after the first step."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.render_finish()

    def show(self, done: int, total: int) -> None:
        """Advance to ``done`` of ``total``."""
        if self.bar is None:
            self.bar = click.progressbar(length=total, label=self.label, file=sys.stderr, show_pos=True)
        self.bar.update(done - self.bar.pos)
