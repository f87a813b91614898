"""``seg-kernel stripes``: a subcommand of a third-party package."""

from __future__ import annotations

import click


@click.command("stripes")
@click.option("--count", default=1, show_default=True, help="Number of lines.")
def command(count: int) -> None:
    """Print stripes."""
    from segplug_sampler.data import Stripes

    for index in range(count):
        row = Stripes(count)[index]["seg"].array[0]
        click.echo("".join(".#"[label] for label in row))
