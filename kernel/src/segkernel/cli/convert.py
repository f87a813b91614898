"""``seg-kernel convert``: weights of another layout as a checkpoint of ours."""

from __future__ import annotations

import click


@click.command("convert")
@click.argument("source", metavar="FILE")
@click.argument("model", metavar="MODEL")
@click.option("--out", metavar="FILE", help="The file to write. [default: NAME_converted.pth here]")
@click.option("--layout", metavar="NAME", help="Whose layout it is, when its keys alone do not tell.")
@click.option("--backbone", is_flag=True, help="The weights are those of the model's backbone alone.")
def command(source: str, model: str, out: str | None, layout: str | None, backbone: bool) -> None:
    """Convert FILE, an address or a name of the table of weights, to the layout of MODEL, a config.

    What is converted on the way into a model anyhow needs no such file; it is for passing on, and for a look at what
    fits.
    """
    from segkernel.opening import convert_weights

    path, report = convert_weights(source, model, out, layout=layout, backbone=backbone)
    click.echo(f"{report}\nwrote {path}")
