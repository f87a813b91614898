"""``seg-kernel data browse``: a contact sheet of images, masks and augmented samples.

seg-kernel data browse my.yaml --out sheet.html --number 20 --augmented 4
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from segkernel.errors import UsageError
from segplug_datasets.commands.target import resolve, target_options


@click.command("browse")
@target_options
@click.option("--out", required=True, metavar="FILE.html|DIR", help="HTML page, or folder of PNGs.")
@click.option(
    "--number", type=click.IntRange(1), default=12, show_default=True, help="Number of samples, evenly spaced."
)
@click.option("--augmented", type=click.IntRange(0), default=0, metavar="K", help="Augmented versions of each sample.")
@click.option("--set", "chosen", default="train", show_default=True, metavar="NAME", help="train, val or test.")
def command(out: str, number: int, augmented: int, chosen: str, **where: Any) -> None:
    """Draw images, their masks with a legend, and augmented versions.

    Ignored pixels are hatched. The K augmented versions are those of a run of CONFIG in its first K epochs.

    \b
    Examples:
      seg-kernel data browse my.yaml --out sheet.html --augmented 3
      seg-kernel data browse --images photos --masks masks --out sheet.html
    """
    from segplug_datasets.doctor.contact_sheet import rows, write_sheet

    parts, config = resolve(**where)
    found = [part for part in parts if part.set == chosen]
    if not found:
        names = ", ".join(dict.fromkeys(part.set for part in parts))
        raise UsageError(f"no set is called {chosen!r}; there are {names}")
    dataset, transforms, seed = _opened(found, config, chosen, augmented)
    found_rows = rows(dataset, transforms, number, augmented, seed)
    with click.progressbar(found_rows, length=min(number, len(dataset)), label="drawing", file=sys.stderr) as bar:
        written, refused = write_sheet(iter(bar), Path(out), chosen)
    click.echo(f"wrote {out}: {written} samples" + (f", {refused} refused" if refused else ""))
    if refused:
        click.echo("next: seg-kernel data check")


def _opened(parts: list[Any], config: Any, chosen: str, augmented: int) -> tuple[Any, list[Any], int]:
    """Return the data set as in a run, the training transforms and the seed."""
    from segkernel import build

    if config is None:
        if augmented:
            raise UsageError("--augmented needs a config: its data.train_transforms are applied")
        part = parts[0]
        return build("datasets", {"type": part.type, **part.arguments}), [], 0
    data = config["data"]
    specs = (data.get("train_transforms") or []) if augmented else []
    transforms = [build("transforms", spec, path=f"data.train_transforms[{i}]") for i, spec in enumerate(specs)]
    return build("datasets", data[chosen], path=f"data.{chosen}"), transforms, config.get("seed") or 0
