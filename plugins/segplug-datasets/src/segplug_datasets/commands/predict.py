"""``seg-kernel predict``: label images with a trained model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from segkernel.cli import TRUST
from segplug_datasets.commands.target import split_overrides, tta_of


@click.command("predict")
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE... [KEY=VALUE]...")
@click.option("--second", "seconds", multiple=True, metavar="IMAGE", help="Second images, for models that compare two.")
@click.option("--weights", metavar="FILE", help="A checkpoint, when MODEL is a config.")
@click.option(
    "--random-weights", is_flag=True, help="Predict with a randomly initialised model if there are no weights."
)
@click.option("--out", default="predictions", show_default=True, metavar="DIR", help="Output folder.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["labels", "overlays", "both"]),
    default="both",
    show_default=True,
    help="Label PNGs (class ids) in DIR/pred, overlays in DIR/vis, or both.",
)
@click.option("--opacity", type=click.FloatRange(0, 1, min_open=True), default=0.5, help="Opacity of the colours.")
@click.option("--tta", is_flag=True, help="Average over scales and mirroring (evaluate.tta, or 0.5 to 1.75 and flip).")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps. [default: best available]")
@click.option("--exporter", metavar="SPEC", help="Loads an exported MODEL: a name, or '{type: NAME, argument: value}'.")
@click.option("--show", is_flag=True, help="Show each overlay in a window.")
@click.option("--wait-time", type=float, default=0, metavar="SECONDS", help="Time to show each; 0 waits for a key.")
@TRUST
def command(
    model: str,
    inputs: tuple[str, ...],
    seconds: tuple[str, ...],
    weights: str | None,
    random_weights: bool,
    out: str,
    kind: str,
    opacity: float,
    tta: bool,
    device: str | None,
    exporter: str | None,
    show: bool,
    wait_time: float,
    trust: bool,
) -> None:
    """Predict IMAGE... with MODEL: a run directory, a checkpoint, an exported file, or a config with --weights.

    An IMAGE is a file of any size, a folder, a quoted pattern ('*.jpg'), or a .txt file with one path per line.
    KEY=VALUE changes the config, also that of a checkpoint: evaluate.test_cfg.mode=whole

    \b
    Examples:
      seg-kernel predict RUN_DIR photo.jpg
      seg-kernel predict model.onnx '*.jpg' --out predictions
      seg-kernel predict my.yaml --weights best.pt photos
    """
    from segkernel import Predictor
    from segkernel.config.text import read_text
    from segkernel.errors import ConfigError, Problem
    from segplug_datasets.predict import collect_images, predict_images

    overrides, given = split_overrides(inputs)
    if not given:
        raise click.UsageError("give an IMAGE to predict")
    images = collect_images(given)
    problems: list[Problem] = []
    spec = read_text(exporter, "--exporter", problems) if exporter else None
    if problems:
        raise ConfigError(problems)
    options: dict[str, Any] = {"exporter": spec, "trust": trust, "random_weights": random_weights}
    predictor = Predictor(model, weights, device, overrides=overrides, **options)
    predictor.tta = tta_of(predictor.config) if tta else None
    folders = {"pictures": "vis" if kind != "labels" else "", "labels": "pred" if kind != "overlays" else ""}
    stream = predict_images(
        predictor,
        images,
        out,
        seconds=seconds or None,
        img_out_dir=folders["pictures"],
        pred_out_dir=folders["labels"],
        opacity=opacity,
        show=show,
        wait_time=wait_time,
    )
    with click.progressbar(stream, length=len(images), label="predicting", file=sys.stderr) as bar:
        done = sum(1 for _ in bar)
    click.echo(f"{done} images predicted on {predictor.device}")
    for what, folder in folders.items():
        if folder:
            there = (Path(out) / folder).is_dir()
            click.echo(f"{what:<8}  {Path(out) / folder if there else 'none: for volumes only labels are written'}")
