"""``seg-kernel new-plugin``: a package with components of one's own, ready to install and to publish.

seg-kernel new-plugin segplug-my-model --kind head,loss
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from segplug_heads.new_plugin.kinds import KINDS
from segplug_heads.new_plugin.package import HOSTS, LICENCES, Component, Plan, package_files

if TYPE_CHECKING:
    from segplug_heads.new_plugin.rewriting.module import Moved


@click.command("new-plugin")
@click.argument("name", help="Name of the package: segplug-my-model.")
@click.option("--kind", "kinds", metavar="KIND[,KIND]...", multiple=True, help=f"all, or: {', '.join(KINDS)}.")
@click.option(
    "--from", "modules", metavar="FILE", multiple=True, help="A module written for MMSegmentation to take over."
)
@click.option("--out", metavar="FOLDER", help="The folder to write. [default: ./NAME]")
@click.option("--licence", type=click.Choice(LICENCES), default="Apache-2.0", show_default=True, help="The licence.")
@click.option("--author", default="", help="Holder of the copyright, in licences that name one.")
@click.option("--ci", "host", type=click.Choice(HOSTS), default="github", show_default=True, help="The workflow file.")
def command(
    name: str,
    kinds: Sequence[str],
    modules: Sequence[str],
    out: str | None,
    licence: str,
    author: str,
    host: str,
) -> None:
    """Write a plugin package with a small component of each KIND: code, config, tests, licence and workflow.

    It installs and passes the conformance kit and its own tests as it stands. With --from, which can be repeated, it
    contains the classes that the modules register with MMSegmentation, rewritten as far as their text allows; they are
    not executed. What a person must do is marked in the files and listed.

    \b
    Examples:
      seg-kernel new-plugin segplug-my-model --kind backbone,head
      seg-kernel new-plugin segplug-my-data --kind dataset,transform --licence MIT
      seg-kernel new-plugin segplug-my-model --from my_head.py
    """
    from segplug_heads.new_plugin.names import PREFIX, Names

    names = Names.parse(name)
    folder = Path(out or names.distribution)
    refuse_existing(names.distribution, folder)
    chosen = parse_kinds(kinds or (() if modules else ("head",)))
    moved = move(modules, names.package, chosen) if modules else None
    if moved is None:
        plan = Plan(names, chosen, licence, author, host)
    else:
        plan = Plan(names, (), licence, author, host, moved.components, moved.files, moved.requires)
    for path, text in package_files(plan).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    offered = plan.offered()
    click.echo(f"wrote {folder}: {', '.join(one.name for one in offered if one.group != 'zoo')}")
    for note in clashes(names.distribution, offered):
        click.echo(f"note: {note}")
    for path, line, text in moved.todos if moved else ():
        click.echo(f"todo: {folder / path}:{line}: {text}")
    if not names.distribution.startswith(PREFIX):
        click.echo(f"note: packages that are called {PREFIX}... are found on a package index by that word")
    click.echo(f"\nnext: cd {quote(str(folder))}")
    click.echo("      pip install -e '.[test]'")
    click.echo(f"      seg-kernel plugins check {names.distribution} --deep")
    click.echo("      pytest")


def parse_kinds(texts: Sequence[str]) -> list[str]:
    """Return the kinds that ``--kind`` names, in the order of `KINDS`.

    Raises:
        UsageError: One is unknown.
    """
    from segkernel.errors import UsageError, suggest

    wanted = [word.strip().replace("-", "_") for text in texts for word in text.split(",") if word.strip()]
    if "all" in wanted:
        return list(KINDS)
    for word in wanted:
        if word not in KINDS:
            raise UsageError(f"--kind: no kind is called {word!r}; {suggest(word, KINDS)}")
    return [kind for kind in KINDS if kind in wanted]


def move(modules: Sequence[str], package: str, kinds: Sequence[str]) -> Moved:
    """Return the modules as parts of the package; of several kinds, none is that of the unknown classes."""
    from segplug_heads.new_plugin.rewriting.module import move_modules

    group = KINDS[kinds[0]].group if len(kinds) == 1 else ""
    return move_modules([Path(module) for module in modules], package, group)


def refuse_existing(distribution: str, folder: Path) -> None:
    """Raise `UsageError` if the folder is in use, or a distribution of that name is installed."""
    import importlib_metadata

    from segkernel.errors import UsageError

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already and is not empty: remove it, or name another folder with --out")
    try:
        version = importlib_metadata.version(distribution)
    except importlib_metadata.PackageNotFoundError:
        return
    raise UsageError(
        f"{distribution} {version} is installed already: use another name, or pip uninstall {distribution}"
    )


def clashes(distribution: str, offered: Sequence[Component]) -> list[str]:
    """Return a note for each name that an installed package offers, too."""
    from segkernel.catalog import Catalog

    rows, notes = Catalog.discover().rows, []
    for one in offered:
        others = [row.distribution for row in rows if (row.group, row.name) == (one.group, one.name)]
        if others:
            what = f"{one.group} component {one.name!r} is offered by {', '.join(others)}, too"
            notes.append(f"{what}; configs then need type: {distribution}/{one.name}")
    return notes
