"""``seg-kernel my-model``: a subcommand. Imports that take time belong inside the function."""

from __future__ import annotations

import click


@click.command("my-model")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="Number of greetings.")
def command(count: int) -> None:
    """Print a greeting.

    \b
    Examples:
      seg-kernel my-model --count 2
    """
    for _ in range(count):
        click.echo("hello from segplug-my-model")
