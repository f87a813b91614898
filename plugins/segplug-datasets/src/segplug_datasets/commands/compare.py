"""``seg-kernel compare``: compares two runs or two folders of predictions, class by class."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segkernel.errors import UsageError

if TYPE_CHECKING:
    from segplug_datasets.report.results import Truth

log = logging.getLogger(__name__)


@click.command("compare")
@click.argument("first", metavar="A", help="A run directory, its per_image.npz, or a folder of predictions.")
@click.argument("second", metavar="B", help="The other, which is compared with A.")
@click.option("--labels", metavar="DIR", help="Ground truth for folders of predictions, with the same values.")
@click.option("--label-suffix", default=".png", show_default=True, help="Suffix of the files in --labels.")
@click.option("--config", metavar="CONFIG", help="Take labels and classes from its test, or validation, set instead.")
@click.option(
    "--values",
    type=click.Choice(["file", "ids"]),
    default="file",
    show_default=True,
    help="With --config: predictions have the label files' values (test --out), or class ids (predict).",
)
@click.option("--classes", metavar="A,B,...", help="With --labels: class names, from value 0 (or --offset) on.")
@click.option("--offset", default=0, show_default=True, help="With --classes: the value of the first class.")
@click.option("--ignore", default=255, show_default=True, help="With --labels: the ignored value.")
@click.option("--bootstrap", default=2000, show_default=True, help="Number of bootstrap draws.")
@click.option("--confidence", default=0.95, show_default=True, help="Level of the intervals, and of the stars (1 - p).")
@click.option("--seed", default=0, show_default=True, help="Seed of the draws.")
@click.option("--images", "most", default=5, show_default=True, help="Number of the most changed images to list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    first: str,
    second: str,
    labels: str | None,
    label_suffix: str,
    config: str | None,
    values: str,
    classes: str | None,
    offset: int,
    ignore: int,
    bootstrap: int,
    confidence: float,
    seed: int,
    most: int,
    as_json: bool,
) -> None:
    """Compare B with A on the same images: IoU by class, with intervals and p-values.

    A and B are run directories tested with the hook EvaluationReport (or its files per_image.npz), or folders of
    prediction PNGs together with --labels or --config. Images are drawn with replacement, the same for both (paired
    bootstrap); p-values are not corrected for multiple comparisons.

    \b
    Examples:
      seg-kernel compare work_dirs/a/TIME work_dirs/b/TIME
      seg-kernel compare pred_a pred_b --labels masks --classes background,crop,weed
    """
    from segplug_datasets.report.comparison import compare
    from segplug_datasets.report.results import load_results

    if labels and config:
        raise UsageError("give --labels or --config, not both")
    truth = _truth(labels, label_suffix, config, values, classes, offset, ignore)
    log.info("reading %s and %s", first, second)
    before, after = load_results(first, truth), load_results(second, truth)
    log.info("drawing %d times", bootstrap)
    found = compare(before, after, bootstrap, confidence, seed)
    if as_json:
        click.echo(json.dumps({"first": first, "second": second, **found.plain(most)}, indent=2))
    else:
        click.echo(f"A  {first}\nB  {second}\n{found.images} images, {bootstrap} draws\n")
        click.echo(found.table("A", "B", most))


def _truth(
    labels: str | None,
    suffix: str,
    config: str | None,
    values: str,
    classes: str | None,
    offset: int,
    ignore: int,
) -> Truth | None:
    from segplug_datasets.label_spec import LabelSpec
    from segplug_datasets.report.results import truth_of_dataset, truth_of_folder

    if labels is not None:
        names = tuple(name.strip() for name in classes.split(",")) if classes else ()
        spec = LabelSpec(names, ignore=(ignore,), offset=offset) if names else None
        return truth_of_folder(Path(labels), spec, suffix, ignore)
    return truth_of_dataset(_dataset(config), values == "ids") if config is not None else None


def _dataset(config: str) -> object:
    """Build the data set that a config tests on, else the one it validates on."""
    from segkernel import build
    from segkernel.config import load_config

    data = load_config(config).data.get("data") or {}
    spec = data.get("test") or data.get("val")
    if spec is None:
        raise UsageError(f"{config}: has neither a test set (data.test) nor a validation set (data.val)")
    return build("datasets", spec)
