"""``seg-kernel export``: write a trained model to another format, proven equal."""

from __future__ import annotations

import click

from segkernel.cli import SIZE


@click.command("export")
@click.argument("model")
@click.option("--weights", metavar="FILE", help="A checkpoint, when MODEL is a config.")
@click.option("--format", "kind", default="ONNXExporter", show_default=True, metavar="EXPORTER", help="Its name.")
@click.option("--image", metavar="FILE", help="Prove it on this image. [default: one of the config's data]")
@click.option("--size", type=SIZE, help="Resize that image. [default: the config's crop size, or its own]")
@click.option("--out", metavar="FILE", help="The file to write. [default: beside the weights]")
def command(
    model: str, weights: str | None, kind: str, image: str | None, size: tuple[int, int] | None, out: str | None
) -> None:
    """Export MODEL: a checkpoint, or a config with --weights. Nothing is written unless the numbers are equal."""
    from segkernel.experiment import export_model

    path = export_model(model, weights, kind, image=image, size=size, out=out)
    click.echo(f"wrote {path}\nnext  seg-kernel predict {path} IMAGE...")
