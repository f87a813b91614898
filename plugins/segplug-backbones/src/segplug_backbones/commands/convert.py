"""``seg-kernel convert``: weights of another format as a checkpoint of ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from segkernel.weights import LoadReport

log = logging.getLogger(__name__)


@click.command("convert")
@click.argument("source", metavar="FILE", help="The weights: a file, an address, or a name.")
@click.argument("model", metavar="MODEL", help="The config of the model, or the name of a packaged one.")
@click.option("--out", metavar="FILE", help="The file to write. [default: NAME_converted.pth here]")
@click.option("--format", "name", metavar="NAME", help="The weight format, when the keys alone do not tell.")
@click.option("--backbone", is_flag=True, help="The weights are those of the model's backbone alone.")
def command(source: str, model: str, out: str | None, name: str | None, backbone: bool) -> None:
    """Convert FILE, an address or a name of the table of weights, to the names of MODEL, a config.

    Weights are converted whenever they are loaded; a file is for passing on, and for a look at what fits.

    \b
    Examples:
      seg-kernel convert resnet50.pth starter --backbone
      seg-kernel convert published.pth my.yaml --out mine.pth
    """
    path, report = convert_weights(source, model, out, format=name, backbone=backbone)
    click.echo(f"{report}\nwrote {path}")


def convert_weights(
    source: str | Path,
    model: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    format: str | None = None,
    backbone: bool = False,
) -> tuple[Path, LoadReport]:
    """Write weights under the names of a model; return the file, and what of it fits.

    Args:
        source: As for `segkernel.checkpoint.load`.
        model: A packaged or local name, a config file, or a mapping.
        out: The file to write; by default ``NAME_converted.pth`` in the current folder.
        format: Name of the weight format, when the keys alone do not tell.
        backbone: Whether the weights are those of the model's backbone alone.

    Raises:
        CheckpointError: The source is not a file of weights, or nothing in it fits.
        ComponentError: The format is unknown.
    """
    from segkernel import checkpoint
    from segkernel.config import load_config
    from segkernel.loading import catalog_of, make_model
    from segkernel.weights import load_into

    config = load_config(model)
    log.info("building %s and reading %s", model if isinstance(model, str | Path) else "the model", source)
    built = make_model(config, pretrained=False)
    target: Any = built.backbone if backbone else built
    with catalog_of(config).active():
        state, report = load_into(target, source, "finetune", format=format)
    path = Path(out) if out else Path(f"{Path(str(source)).stem}_converted.pth")
    meta = {key: state["meta"][key] for key in ("classes", "palette") if key in state["meta"]}
    checkpoint.save(path, {"state_dict": {name: target.state_dict()[name] for name in report.loaded}, "meta": meta})
    return path, report
