"""``seg-kernel config``: show or check a config."""

from __future__ import annotations

import gc
import shlex

import click

from segkernel.catalog import Catalog
from segkernel.cli import CONFIG, OVERRIDES
from segkernel.config import load_config
from segkernel.errors import ConfigError


@click.group("config")
def command() -> None:
    """Show a config with the origin of every value, or check it.

    \b
    Examples:
      seg-kernel config show quickstart
      seg-kernel config check my.yaml
    """


@command.command("show")
@CONFIG
@OVERRIDES
@click.option("--explain", "keys", multiple=True, metavar="KEY", help="Only the history of this key; may be repeated.")
@click.option("--places/--no-places", default=True, help="Add comments on where each value comes from.")
def show(config: str, overrides: tuple[str, ...], keys: tuple[str, ...], places: bool) -> None:
    """Print CONFIG, a file or a name of the zoo, with bases, overrides and references resolved.

    \b
    Examples:
      seg-kernel config show my.yaml
      seg-kernel config show my.yaml --explain optim.optimizer.lr
    """
    from segkernel.config.show import to_yaml

    loaded = load_config(config, overrides)
    if keys:
        click.echo("\n".join(line for key in keys for line in loaded.explain(key)))
    else:
        click.echo(to_yaml(loaded.data, places), nl=False)


@command.command("check")
@CONFIG
@OVERRIDES
def check(config: str, overrides: tuple[str, ...]) -> None:
    """Import the components of CONFIG, check every argument, and run the checks of plugins; exit with 2 on problems.

    \b
    Examples:
      seg-kernel config check my.yaml
      seg-kernel config check my.yaml schedule.iterations=500
    """
    loaded = load_config(config, overrides)
    plugins = Catalog.discover()
    if problems := [problem for _, check in plugins.load_all("quick_checks") for problem in check(loaded)]:
        raise ConfigError(problems)
    gc.disable()  # looking for cycles among the objects of imported modules, which stay, would take half a second
    click.get_current_context().call_on_close(gc.enable)
    click.echo(f"checking {config}: importing its components", err=True)  # torch among them, which takes a second
    from segkernel.experiment import check as problems_of

    more = (problem for _, check in plugins.load_all("config_checks") for problem in check(loaded))
    if problems := problems_of(loaded) or list(more):
        raise ConfigError(problems)
    click.echo(f"{config} is valid\nnext: seg-kernel run {shlex.join((config, *overrides))}")
