"""``seg-kernel predict``: label images with a trained model."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("predict")
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--weights", metavar="FILE", help="A checkpoint, when MODEL is a config.")
@click.option("--out", default="predictions", show_default=True, metavar="DIR", help="Where the files go.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["labels", "overlays", "both"]),
    default="both",
    show_default=True,
    help="Label PNGs (class ids) in DIR/pred, pictures in DIR/vis, or both.",
)
@click.option("--opacity", type=click.FloatRange(0, 1, min_open=True), default=0.5, help="Of the colours.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps. [default: the best there is]")
@click.option("--show", is_flag=True, help="Show each picture in a window.")
@click.option("--wait-time", type=float, default=0, metavar="SECONDS", help="How long to show each; 0 waits for a key.")
def command(
    model: str,
    inputs: tuple[str, ...],
    weights: str | None,
    out: str,
    kind: str,
    opacity: float,
    device: str | None,
    show: bool,
    wait_time: float,
) -> None:
    """Predict IMAGE... with MODEL: a checkpoint, an exported file, or a config with --weights.

    An IMAGE is a file of any size, a folder, a quoted pattern ('*.jpg'), or a .txt file with one path per line.
    """
    from rich.console import Console
    from rich.progress import track

    from segkernel.predictor import Predictor, collect

    images = collect(list(inputs))
    predictor = Predictor(model, weights, device)
    pictures, labels = "vis" if kind != "labels" else "", "pred" if kind != "overlays" else ""
    stream = predictor.stream(
        images,
        show=show,
        wait_time=wait_time,
        opacity=opacity,
        out_dir=out,
        img_out_dir=pictures,
        pred_out_dir=labels,
    )
    console = Console(stderr=True)
    done = 0
    for _ in track(stream, "predicting", total=len(images), console=console, disable=not console.is_terminal):
        done += 1
    click.echo(f"{done} images predicted on {predictor.device}")
    if pictures:
        click.echo(f"pictures  {Path(out) / pictures}")
    if labels:
        click.echo(f"labels    {Path(out) / labels}")
