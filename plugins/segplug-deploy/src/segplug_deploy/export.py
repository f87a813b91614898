"""``seg-kernel export``: write a trained model to another format, verified against the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkernel.cli import OVERRIDES, SIZE, TRUST
from segkernel.errors import ConfigError, DataError, Problem, UntrustedError, UsageError

if TYPE_CHECKING:
    from segkernel.config import Config
    from segkernel.interfaces.model import Exporter
    from segkernel.predictor import Image

log = logging.getLogger(__name__)


@click.command("export")
@click.argument("model", help="A run directory, a checkpoint, or a config.")
@OVERRIDES
@click.option("--weights", metavar="FILE", help="A checkpoint, when MODEL is a config.")
@click.option(
    "--format",
    "kind",
    metavar="SPEC",
    help="An exporter's name, or '{type: NAME, argument: value}'. [default: the config's first, else ONNXExporter]",
)
@click.option(
    "--image", metavar="FILE", help="Verify on this image. [default: the first of the config's data, else noise]"
)
@click.option("--second", metavar="FILE", help="The second image, for a model that compares two.")
@click.option("--tta", is_flag=True, help="Write evaluate.tta into the file, so that `test` averages over views.")
@click.option("--size", type=SIZE, help="Resize that image. [default: the config's crop size, or its own]")
@click.option("--out", metavar="FILE", help="The file to write. [default: next to the weights]")
@TRUST
def command(
    model: str,
    overrides: tuple[str, ...],
    weights: str | None,
    kind: str | None,
    image: str | None,
    second: str | None,
    tta: bool,
    size: tuple[int, int] | None,
    out: str | None,
    trust: bool,
) -> None:
    """Export MODEL: a run directory, a checkpoint, or a config with --weights.

    The file is only written if its outputs match the model's.

    KEY=VALUE changes the config, also that of a checkpoint; the exported file contains the changed config.

    \b
    Examples:
      seg-kernel export work_dirs/my/TIME
      seg-kernel export my.yaml --weights best.pt --out model.onnx
      seg-kernel export best.pt --size 512x512
    """
    from segkernel.config.text import read_text

    if second and not image:
        raise click.UsageError("--second goes with --image, the first of the two")
    problems: list[Problem] = []
    spec = read_text(kind, "--format", problems) if kind else None
    if problems:
        raise ConfigError(problems)
    path = export_model(
        model,
        weights,
        spec,
        image=(image, second) if image and second else image,
        size=size,
        out=out,
        overrides=overrides,
        tta=tta,
        trust=trust,
    )
    click.echo(f"wrote {path}\nnext  seg-kernel predict {path} IMAGE...")


def export_model(
    model: str | Path,
    weights: str | Path | None = None,
    exporter: str | Mapping[str, Any] | Exporter | None = None,
    *,
    image: Image | tuple[Image, Image] | None = None,
    size: tuple[int, int] | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    tta: bool = False,
    trust: bool = False,
) -> Path:
    """Export a trained model; return the file, which is only written if its outputs match the model's.

    Args:
        model: A run directory, a checkpoint, or a config with weights.
        weights: A checkpoint.
        exporter: A name, ``{type: NAME, argument: value}``, or a built one. A name takes its arguments from the
            config's section ``export`` if it is there; None is the first exporter there, else ``ONNXExporter``.
        image: The image to verify on, two for a model that compares two; None takes the first image of the config's
            test, validation or training set, or noise, with a warning, where they may not or cannot be read.
        size: (height, width) in pixels to resize that image to; None keeps its size after the config's transforms.
        out: The file; None puts it next to the weights, or into the run directory.
        overrides: ``key=value`` strings for the config.
        tta: Whether to set ``evaluate.tta`` of the file's config to the usual views if it is empty, so that `test` of
            the file averages over them. The file itself computes one view.
        trust: As in `segkernel.Predictor`.

    Raises:
        ExportError: The model cannot be exported, or the file's outputs differ.
        ConfigError, CheckpointError, DataError, UsageError: As in `segkernel.Predictor`.
    """
    from segkernel.nn import resize
    from segkernel.predictor import Predictor

    log.info("loading %s", model)
    predictor = Predictor(model, weights, device="cpu", overrides=overrides, trust=trust, random_weights=True)
    chosen = _chosen(exporter, predictor.config)
    example = predictor.example(_image_for(predictor.config) if image is None else image)
    if size:
        example = resize(example, size=size, mode="bilinear", align_corners=False)
    path = Path(out) if out else _next_to(Path(weights or model), chosen.suffix)
    metadata = predictor.metadata()
    if tta:
        metadata["config"] = _with_views(metadata["config"])
    log.info("%s", chosen.export(predictor.model, path, example, metadata))
    return path


def _next_to(source: Path, suffix: str) -> Path:
    return source / f"model{suffix}" if source.is_dir() else source.with_suffix(suffix)


def _chosen(exporter: str | Mapping[str, Any] | Exporter | None, config: Config | None) -> Exporter:
    from segkernel import build
    from segkernel.loading import catalog_of

    catalog = catalog_of(config)
    if exporter is None or isinstance(exporter, str):
        for spec in (config.get("export") if config else None) or ():
            if exporter in (None, spec.get("type")):
                return build("exporters", spec, catalog=catalog)
        exporter = {"type": exporter or "ONNXExporter"}
    # The user names it, so it may be an import path.
    return build("exporters", exporter, catalog=replace(catalog, trusted=True))


VIEWS = {"scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "flip": True}
"""The test-time augmentation of most publications."""


def _with_views(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config that averages over views: its own, or the usual ones."""
    evaluate = dict(config.get("evaluate") or {})
    return {**config, "evaluate": {**evaluate, "tta": evaluate.get("tta") or VIEWS}}


def _image_for(config: Config | None) -> Any:
    """Return the first image of the config's data, or noise of the crop size."""
    try:
        return _first_image(config)
    except (DataError, UntrustedError) as error:
        import numpy as np

        height, width = ((config and config.get("data")) or {}).get("crop_size") or (512, 512)
        why = str(error).partition("\n")[0]
        log.warning("%s\n    verifying on noise of %s x %s; --image takes an image instead", why, height, width)
        return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _first_image(config: Config | None) -> Any:
    from segkernel import build
    from segkernel.loading import ambient_of, catalog_of

    data: Mapping[str, Any] = (config.get("data") if config else None) or {}
    spec = next((data[part] for part in ("test", "val", "train") if data.get(part)), None)
    if config is None or spec is None:
        raise UsageError("the config has no data: pass an --image to verify the exported file on")
    return build("datasets", spec, catalog=catalog_of(config), ambient=ambient_of(config))[0]
