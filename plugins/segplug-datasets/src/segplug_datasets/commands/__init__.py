"""``seg-kernel data``: commands on data sets, imported on use."""

from __future__ import annotations

import importlib

import click

from segkernel.errors import UsageError, suggest

COMMANDS = {
    "check": "Find problems in images and masks, and show how to fix them.",
    "stats": "Mean and standard deviation per band, pixels per class, sizes, class weights.",
    "browse": "Draw images, masks and augmented samples on one page.",
    "prepare": "Convert a data set from its download into the published layout.",
    "coco": "Write the objects of a data set as COCO's JSON.",
    "pack": "Decode a data set once into memory-mapped files.",
}
"""Help texts by name; each command is ``command`` in ``segplug_datasets.commands.NAME``."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            raise UsageError(f"no command is called 'data {name}'; {suggest(name, COMMANDS)}")
        command: click.Command = importlib.import_module(f"segplug_datasets.commands.{name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str, click.Command | None, list[str]]:
        return args[0], self.get_command(ctx, args[0]), args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, no_args_is_help=True)
def data() -> None:
    """Check, measure, browse, convert and pack data.

    \b
    Examples:
      seg-kernel data check my.yaml
      seg-kernel data stats my.yaml
      seg-kernel data browse my.yaml --out sheet.html
    """
