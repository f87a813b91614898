"""``seg-kernel explain``: what a name means."""

from __future__ import annotations

import click


@click.command("explain")
@click.argument("name", nargs=-1, required=True, help="The name; that of a subcommand has two words.")
def command(name: tuple[str, ...]) -> None:
    """Explain NAME: a component, a config of the zoo, a config key, a hook method, a command, a group, an exception, an
    exit code, or what a message means.

    \b
    Examples:
      seg-kernel explain PSPHead              arguments, defaults and an example
      seg-kernel explain optim.paramwise      a key of a config
      seg-kernel explain after_validation     a hook method
      seg-kernel explain data check           a command
      seg-kernel explain 3                    an exit code
      seg-kernel explain troubleshooting      messages that have a section of help
    """
    from segkernel.catalog import Catalog
    from segplug_heads.reference.find import find

    click.echo("\n\n".join(entry.plain() for entry in find(" ".join(name), Catalog.discover())))
