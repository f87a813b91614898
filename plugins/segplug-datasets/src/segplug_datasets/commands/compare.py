"""``seg-kernel compare``: compares runs or folders of predictions, class by class, and their latency."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segkernel.cli import SIZE, table
from segkernel.errors import UsageError
from segplug_datasets.report.pareto import Point, front, latencies, pareto_svg
from segplug_datasets.writing import written

if TYPE_CHECKING:
    from segplug_datasets.report.comparison import Comparison
    from segplug_datasets.report.results import Truth

log = logging.getLogger(__name__)


@click.command("compare")
@click.argument("first", metavar="A", help="A run directory, its per_image.npz, or a folder of predictions.")
@click.argument("second", metavar="B", help="The other, which is compared with A.")
@click.argument("others", nargs=-1, metavar="[C]...", help="Further ones, each compared with A.")
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
@click.option(
    "--latency", "size", type=SIZE, metavar="HxW", help="Also measure the time of each model on such an image."
)
@click.option("--picture", metavar="FILE", help="With --latency: write mIoU over latency, as SVG.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    first: str,
    second: str,
    others: tuple[str, ...],
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
    size: tuple[int, int] | None,
    picture: str | None,
    as_json: bool,
) -> None:
    """Compare B, and each further one, with A on the same images: IoU by class, with intervals and p-values.

    They are run directories tested with the hook EvaluationReport (or its files per_image.npz), or predictions
    together with --labels or --config: folders of PNGs, or .pkl files of MMSegmentation's tests. Without results of
    single images, the last figures in the logs are compared, also in work directories of MMSegmentation.

    Images are drawn with replacement, the same for both (paired bootstrap); p-values are not corrected for multiple
    comparisons.

    \b
    Examples:
      seg-kernel compare work_dirs/a/TIME work_dirs/b/TIME
      seg-kernel compare pred_a pred_b --labels masks --classes background,crop,weed
      seg-kernel compare runs/small runs/medium runs/large --latency 512x1024 --picture pareto.svg
    """
    from segplug_datasets.report.comparison import compare
    from segplug_datasets.report.results import load_results

    if labels and config:
        raise UsageError("give --labels or --config, not both")
    truth = _truth(labels, label_suffix, config, values, classes, offset, ignore)
    if picture and not size:
        raise UsageError("--picture shows latency: give --latency HxW, too")
    if picture and not picture.lower().endswith(".svg"):
        raise UsageError(f"--picture {picture}: the picture is an SVG, name it .svg")
    runs = (first, second, *others)
    log.info("reading %s", ", ".join(runs))
    if truth is None and size is None and (logged := _logged(runs)):
        click.echo(json.dumps({"logged": logged}, indent=2) if as_json else _logged_table(logged))
        return
    before, *after = [load_results(run, truth) for run in runs]
    log.info("drawing %d times", bootstrap)
    found = [compare(before, each, bootstrap, confidence, seed) for each in after]
    points = _points(runs, found, size) if size else []
    if picture:
        with written(Path(picture)) as temporary:
            temporary.write_text(pareto_svg(points), "utf-8")
    if as_json:
        parts = [{"first": first, "second": run, **each.plain(most)} for run, each in zip(runs[1:], found)]
        content = parts[0] if len(parts) == 1 else {"comparisons": parts}
        speed = {"latency": [dataclasses.asdict(point) for point in points]} if points else {}
        click.echo(json.dumps({**content, **speed}, indent=2))
        return
    for run, each in zip(runs[1:], found):
        click.echo(f"A  {first}\nB  {run}\n{each.images} images, {bootstrap} draws\n")
        click.echo(each.table("A", "B", most) + ("\n" if run != runs[-1] or points else ""))
    if points and size:
        click.echo(_latency_table(points, size))


def _logged(runs: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the last figures in the logs of runs, when some have no results of single images; else nothing."""
    from segplug_datasets.report.logged import logged_figures
    from segplug_datasets.report.results import PICKLES, find_results, load_results

    def has_images(run: str) -> bool:
        found = find_results(run)
        return found is not None and found.suffix not in (".json", ".jsonl", *PICKLES)

    figures = {} if all(map(has_images, runs)) else {run: logged_figures(run) for run in runs}
    for run in (run for run in runs if any(figures.values()) and not (figures[run] or has_images(run))):
        load_results(run, None)  # raises what this one lacks
    return figures if all(figures.values()) else {}


def _logged_table(figures: dict[str, dict[str, float]]) -> str:
    """Return the figures that all runs have, and the differences from the first."""
    names = [name for name in next(iter(figures.values())) if all(name in each for each in figures.values())]
    heads = [chr(ord("A") + number) for number in range(len(figures))]
    rows = [("", *heads, *(f"{head} - A" for head in heads[1:]))]
    for name in names:
        first, *rest = (each[name] for each in figures.values())
        rows.append((name, *(f"{value:.2f}" for value in (first, *rest)), *(f"{value - first:+.2f}" for value in rest)))
    legend = "\n".join(f"{head}  {run}" for head, run in zip(heads, figures))
    note = "the last figures in the logs, without intervals: they need the results of single images (EvaluationReport)"
    return f"{legend}\n\n{table(rows)}\n\n{note}"


def _points(runs: Sequence[str], found: Sequence[Comparison], size: tuple[int, int]) -> list[Point]:
    """Return mIoU and latency of each run."""
    metrics = [{entry.name: entry for entry in each.metrics}["mIoU"] for each in found]
    scores = [metrics[0].first, *(metric.second for metric in metrics)]
    log.info("measuring the latency of %d models", len(runs))
    times = latencies(runs, size)
    return [Point(run, time, 100 * score) for run, time, score in zip(runs, times, scores)]


def _latency_table(points: Sequence[Point], size: tuple[int, int]) -> str:
    """Return the models from the fastest to the slowest; a star marks those that no other beats in both."""
    ordered = sorted(zip(points, front(points)), key=lambda pair: pair[0].latency)
    rows = [("model", "ms", "mIoU", "")]
    rows += [(point.name, f"{point.latency:.1f}", f"{point.score:.2f}", "*" * best) for point, best in ordered]
    note = f"* no other is as fast and as accurate; one image of {size[0]} x {size[1]}, from pixels to labels"
    return f"{table(rows)}\n{note}"


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
