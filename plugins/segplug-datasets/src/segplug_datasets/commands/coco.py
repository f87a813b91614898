"""``seg-kernel data coco``: write the objects of a data set as COCO's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from segkernel.cli import OVERRIDES
from segkernel.errors import UsageError, suggest
from segplug_datasets.commands.pack import SPLITS, Progress


@click.command("coco", no_args_is_help=True)
@click.argument("config", help="A YAML file, or the name of a packaged config.")
@click.argument("file", help="The JSON file to write.")
@OVERRIDES
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True, help="Set of the config.")
@click.option("--images", metavar="DIR", help="Folder to which file names are relative. [default: that of all images]")
def command(config: str, file: str, overrides: tuple[str, ...], split: str, images: str | None) -> None:
    """Write the objects of a data set of CONFIG, a file or a name of the zoo, into FILE in COCO's form.

    Annotation files of all formats that list objects are converted, and masks that number them. Polygons stay polygons;
    bitmaps and crowds become run lengths.

    \b
    Examples:
      seg-kernel data coco my.yaml train.json
      seg-kernel data coco my.yaml val.json --split val --images photos
    """
    from segkernel import build
    from segkernel.config import load_config
    from segplug_datasets.annotations.coco_writer import write_coco

    data = load_config(config, overrides).get("data") or {}
    if not data.get(split):
        known = [name for name in SPLITS if data.get(name)]
        raise UsageError(f"the config has no set data.{split}; {suggest(split, known) or 'it has no data at all'}")
    dataset = build("datasets", _with_objects(data[split]), path=f"data.{split}")
    with Progress(len(dataset), "reading") as progress:
        written = write_coco(dataset, file, images, progress)
    click.echo(f"wrote {written['objects']} objects of {written['images']} images to {file}\n")
    click.echo("to read it:\n")
    arguments = f"ann_file: {Path(file).resolve()}, images: {Path(written['folder']).resolve()}"
    click.echo(f"{{type: CocoInstanceDataset, {arguments}, instances: polygons, background: null}}")


def _with_objects(spec: Any) -> Any:
    """Return the config of a data set that reads its objects, if it can, without a class for the background."""
    from segkernel.catalog import Catalog
    from segkernel.signature import signature

    if not isinstance(spec, Mapping) or "type" not in spec:
        return spec
    known = signature(Catalog.discover().load("datasets", spec["type"]))
    defaults = {"instances": "polygons", "background": None}
    return {name: value for name, value in defaults.items() if "instances" in known and name in known} | dict(spec)
