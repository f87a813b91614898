"""``seg-kernel publish``: a trained model as a folder for others."""

from __future__ import annotations

import click


@click.command("publish")
@click.argument(
    "source", metavar="CHECKPOINT", help="A run directory, whose best checkpoint is taken, or a checkpoint."
)
@click.option("--out", metavar="DIR", help="The folder to write. [default: published/NAME]")
@click.option("--name", metavar="NAME", help="Name of the model. [default: the run's, else the file's]")
@click.option("--licence", "--license", metavar="ID", help="Identifier of the licence, such as Apache-2.0.")
@click.option("--config", metavar="CONFIG", help="The config of a checkpoint that holds none.")
@click.option("--classes", metavar="A,B,...", help="Names of the classes, for a checkpoint that holds none.")
@click.option("--push", metavar="hf://ORG/NAME", help="Also upload the folder to the Hugging Face hub.")
@click.option("--force", is_flag=True, help="Replace what was published in the folder, or at the address, before.")
@click.option("--trust", is_flag=True, help="The config in the checkpoint may name import paths and files.")
def command(
    source: str,
    out: str | None,
    name: str | None,
    licence: str | None,
    config: str | None,
    classes: str | None,
    push: str | None,
    force: bool,
    trust: bool,
) -> None:
    """Write weights, config and a model card of CHECKPOINT into a folder, for others to use.

    The weights are a .safetensors file that holds classes, palette, config and licence, with the first digits of its
    checksum in its name. Averaged weights (EMA) are taken where there are any. They must fit the config completely.

    \b
    Examples:
      seg-kernel publish work_dirs/my/TIME --licence Apache-2.0
      seg-kernel publish iter_80000.pth --config my.yaml --name my-model
      seg-kernel publish runs/a --licence CC-BY-4.0 --push hf://my-org/my-model
    """
    from segplug_backbones.publishing.publish import publish
    from segplug_backbones.weight_formats.hub import push as upload
    from segplug_backbones.weight_formats.hub import repository

    if push:
        repository(push)  # an invalid address is refused before anything is written
    names = [part.strip() for part in classes.split(",")] if classes else []
    path = publish(
        source,
        out,
        config=config,
        name=name or "",
        licence=licence or "",
        classes=names,
        address=push or "",
        force=force,
        trust=trust,
    )
    click.echo(f"wrote {path}, with README.md and config.yaml")
    if not licence:
        click.echo("no licence is stated: others may not use the model; --licence ID states one", err=True)
    if push:
        click.echo(f"uploaded {upload(path.parent, push, force)}")
    click.echo(f"next   seg-kernel predict {push or path} IMAGE... --out predictions")
