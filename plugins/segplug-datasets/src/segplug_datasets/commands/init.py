"""``seg-kernel init``: a config for a folder of labelled images.

seg-kernel init my_folder
seg-kernel init my_folder --model segformer_mit-b0_8xb2-160k_ade20k-512x512 --out segformer.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from segkernel.labels import IGNORE

if TYPE_CHECKING:
    from segplug_datasets.own_data.project import Project

_MOST_ROWS = 24
_MOST_NAMES = 8
_MOST_FILES = 5


@click.command("init")
@click.argument("folder", help="Images with masks or annotations, or the name of a published data set.")
@click.option("--out", metavar="FILE", default="my.yaml", show_default=True, help="The config to write.")
@click.option(
    "--model", metavar="NAME", default="starter", show_default=True, help="A packaged config: seg-kernel models."
)
@click.option("--images", metavar="DIR", help="The folder of images, if FOLDER has several.")
@click.option("--labels", metavar="PATH", help="The folder of masks, or the annotation file, if FOLDER has several.")
@click.option("--root", metavar="DIR", help="Where the files of a published data set are.")
@click.option(
    "--iterations", type=click.IntRange(1), metavar="N", help="Number of training iterations. [default: from the data]"
)
@click.option("--force", is_flag=True, help="Overwrite files.")
@click.option("--workers", type=click.IntRange(0), help="Processes that read files. [default: one per core]")
def command(
    folder: str,
    out: str,
    model: str,
    images: str | None,
    labels: str | None,
    root: str | None,
    iterations: int | None,
    force: bool,
    workers: int | None,
) -> None:
    """Write a config that trains on the images and masks in FOLDER.

    FOLDER contains images and masks, in two folders or in one, with or without a split into train, val and test; or
    annotations of COCO, labelme, CVAT, Label Studio or YOLO; or it is the name of a published data set. Masks are
    checked, images without a split are divided into three sets, and sizes, batch size and length are chosen for the
    data and this machine.

    \b
    Examples:
      seg-kernel init my_photos
      seg-kernel init my_photos --model segformer_mit-b0_8xb1-160k_cityscapes-1024x1024
    """
    from segplug_datasets.commands.target import inspect_with_progress
    from segplug_datasets.own_data.project import Options, prepare

    options = Options(images, labels, root, model, iterations, force)
    project = prepare(folder, Path(out), options, lambda parts: inspect_with_progress(parts, workers))
    click.echo(summary(project))
    file = quote(out)
    commands = [project.check, f"seg-kernel run {file}"] if project.check else [f"seg-kernel run {file}"]
    click.echo("\nnext: " + "\n      ".join(commands))
    click.echo(f"      seg-kernel data browse {file} --out sheet.html --augmented 3 shows the training samples")


def summary(project: Project) -> str:
    """Return what was found and written, as text for the terminal."""
    from segkernel.cli import table

    facts = project.facts
    lines = [
        table(
            [("set", "images", "sizes"), *((s.set, str(s.images), _sizes(s.heights, s.widths)) for s in project.stats)]
        )
    ]
    lines.append(table(_class_rows(project)))
    corrected = []
    for finding in project.diagnosis.applied:
        unnamed = finding.kind == "classes-unknown"  # nothing is wrong with the masks
        what = "no class names were found, fill them in" if unnamed else "corrected"
        corrected.append(f"{what}: {finding.what} ({finding.where})")
    faults = [f"{one.severity}: {one.where}: {one.what}{_files(one.files)}" for one in project.findings]
    more = [*project.remarks, *corrected, *faults]
    if facts.rare:
        more.append(f"rare: {_some(facts.rare)}; look at the IoU, not at the pixel accuracy")
    lines.append("\n".join(f"- {line}" for line in more))
    lines.append("\n".join(f"wrote {path}" for path in project.written))
    return "\n\n".join(filter(None, lines))


def _class_rows(project: Project) -> list[tuple[str, ...]]:
    """Return the rows of the classes; if there are many, only those with most pixels."""
    first = project.stats[0]
    rows = [("class", *(f"{one.set} %" for one in project.stats), "images", "width")]
    order = sorted(range(len(first.classes)), key=first.share, reverse=True)
    shown = range(len(order)) if len(order) <= _MOST_ROWS else order[:_MOST_ROWS]
    for place in shown:
        name = first.classes[place]
        wide = project.facts.widths.get(name)
        shares = [f"{100 * one.share(place):.2f}" for one in project.stats]
        rows.append((name, *shares, str(first.images_with[place]), f"{wide:.0f} px" if wide else ""))
    if len(order) > _MOST_ROWS:
        rows.append((f"and {len(order) - _MOST_ROWS} more", *[""] * (len(project.stats) + 2)))
    ignored = [one.pixels[IGNORE] / max(one.pixels.total(), 1) for one in project.stats]
    if any(ignored):
        rows.append(("(ignored)", *(f"{100 * share:.2f}" for share in ignored), "", ""))
    return rows


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (
        f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    )


def _files(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _MOST_FILES} more" if len(paths) > _MOST_FILES else ""
    return f": {', '.join(paths[:_MOST_FILES])}{more}" if paths else ""


def _sizes(heights: list[int], widths: list[int]) -> str:
    sizes = sorted(zip(heights, widths), key=lambda size: size[0] * size[1])
    return _by(sizes[0]) if sizes[0] == sizes[-1] else f"{_by(sizes[0])} to {_by(sizes[-1])}"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
