"""``seg-kernel convert``: weights of another format as a checkpoint of ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkernel.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from segkernel.config import Config
    from segkernel.weights import LoadReport
    from segplug_backbones.mismatch import Mismatch

log = logging.getLogger(__name__)


@click.command("convert")
@click.argument("source", metavar="FILE", help="The weights: a file, an address, or a name.")
@click.argument("model", metavar="MODEL", help="The config of the model, or the name of a packaged one.")
@click.option("--out", metavar="FILE", help="The file to write. [default: NAME_converted.pth here]")
@click.option("--format", "name", metavar="NAME", help="The weight format, when the keys alone do not tell.")
@click.option("--backbone", is_flag=True, help="The weights are those of the model's backbone alone.")
@click.option("--check", is_flag=True, help="Write nothing; list all tensors that differ, and probable renames.")
@click.option("--resume", is_flag=True, help="Also convert iteration and optimiser of a run of MMSegmentation.")
def command(
    source: str, model: str, out: str | None, name: str | None, backbone: bool, check: bool, resume: bool
) -> None:
    """Convert FILE, an address or a name of the table of weights, to the names of MODEL, a config.

    Weights are converted whenever they are loaded; a file is for passing on, and for a look at what fits. With
    --resume, training continues with seg-kernel run MODEL --resume FILE.

    \b
    Examples:
      seg-kernel convert resnet50.pth starter --backbone
      seg-kernel convert published.pth my.yaml --check
      seg-kernel convert iter_80000.pth my.yaml --resume --out runs/my/checkpoints/iter_0080000.pt
    """
    if resume and (check or backbone or name):
        raise UsageError("--resume converts a whole run: leave out --check, --backbone and --format")
    if check:
        mismatch = check_weights(source, model, format=name, backbone=backbone)
        if mismatch:
            click.echo(mismatch.table())
            raise CheckpointError(f"{source}: does not fit {model}, see the table")
        click.echo(f"all {mismatch.total} tensors fit\nnext   seg-kernel test {model} {source}")
        return
    if resume:
        from segkernel.config import load_config
        from segplug_backbones.continuation import write_continuation

        path = Path(out or f"{Path(source).stem}_converted.pt")
        click.echo(f"{write_continuation(source, load_config(model), path)}\nwrote {path}")
        click.echo(f"next   seg-kernel run {model} --resume {path}")
        return
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
    from segkernel.loading import catalog_of
    from segkernel.weights import load_into

    config, target = _target(source, model, backbone)
    with catalog_of(config).active():
        state, report = load_into(target, source, "finetune", format=format)
    path = Path(out) if out else Path(f"{Path(str(source)).stem}_converted.pth")
    meta = {key: state["meta"][key] for key in ("classes", "palette") if key in state["meta"]}
    checkpoint.save(path, {"state_dict": {name: target.state_dict()[name] for name in report.loaded}, "meta": meta})
    return path, report


def check_weights(
    source: str | Path,
    model: str | Path | Mapping[str, Any],
    *,
    format: str | None = None,
    backbone: bool = False,
) -> Mismatch:
    """Return what differs between weights, after conversion, and a model; arguments as for `convert_weights`.

    Raises:
        CheckpointError: The source is not a file of weights.
        ComponentError: The format is unknown.
    """
    from segkernel import checkpoint
    from segkernel.loading import catalog_of
    from segkernel.weights import convert
    from segplug_backbones.mismatch import Mismatch

    config, target = _target(source, model, backbone)
    with catalog_of(config).active():
        found = convert(target, checkpoint.load(source)["state_dict"], format, values=False)
    return Mismatch.between(target.state_dict(), found.weights)


def _target(source: str | Path, model: str | Path | Mapping[str, Any], backbone: bool) -> tuple[Config, Any]:
    """Return a config, and its model or backbone."""
    from segkernel.config import load_config
    from segkernel.loading import make_model

    config = load_config(model)
    log.info("building %s and reading %s", model if isinstance(model, str | Path) else "the model", source)
    built: Any = make_model(config, pretrained=False)
    return config, built.backbone if backbone else built
