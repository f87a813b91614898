"""``seg-kernel export``: write a trained model to another format, verified against the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkernel.cli import OVERRIDES, SIZE, TRUST
from segkernel.errors import ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from segkernel import Catalog
    from segkernel.config import Config
    from segkernel.interfaces.model import Exporter
    from segkernel.predictor import Image, Predictor

log = logging.getLogger(__name__)
DYNAMIC = {"all": True, "batch": "batch", "size": "size", "none": False}


@click.command("export")
@click.argument("model", help="A run directory, a checkpoint, or a config.")
@OVERRIDES
@click.option("--weights", metavar="FILE", help="A checkpoint, when MODEL is a config.")
@click.option(
    "--format",
    "kind",
    metavar="SPEC",
    help="onnx, openvino, torchscript ..., an exporter's name, or '{type: NAME, argument: value}'. "
    "[default: by the suffix of --out, else the config's first, else ONNXExporter]",
)
@click.option("--precision", type=click.Choice(["float32", "float16", "int8"]), help="int8 is calibrated on data.val.")
@click.option("--dynamic", type=click.Choice([*DYNAMIC]), help="Which of batch, height and width are dynamic.")
@click.option("--with-preprocess", is_flag=True, help="The file takes uint8 RGB images (N, H, W, C).")
@click.option("--with-labels", is_flag=True, help="The file returns labels (N, H, W) instead of logits.")
@click.option(
    "--image",
    "images",
    metavar="FILE",
    multiple=True,
    help="Verify on this image; can be repeated. [default: the first of the config's data, else noise]",
)
@click.option("--second", metavar="FILE", help="The second image, for a model that compares two.")
@click.option("--count", type=click.IntRange(1), default=8, help="Images of the data to verify on. [default: 8]")
@click.option("--calibration", type=click.IntRange(1), default=32, help="Images for int8. [default: 32]")
@click.option("--tta", is_flag=True, help="Write evaluate.tta into the file, so that `test` averages over views.")
@click.option("--size", type=SIZE, help="Resize the first image. [default: the config's crop size, or its own]")
@click.option("--print-graph", is_flag=True, help="Print the operators of the file.")
@click.option("--show-dir", metavar="DIR", help="Write a picture of each image: the model's labels, the file's.")
@click.option("--opacity", type=click.FloatRange(0, 1, min_open=True), default=0.5, help="Opacity of the colours.")
@click.option("--out", metavar="FILE", help="The file to write. [default: next to the weights]")
@TRUST
def command(
    model: str,
    overrides: tuple[str, ...],
    weights: str | None,
    kind: str | None,
    images: tuple[str, ...],
    second: str | None,
    print_graph: bool,
    **options: Any,
) -> None:
    """Export MODEL: a run directory, a checkpoint, or a config with --weights.

    The file is only written if its outputs match the model's. NAME.json beside it states what was compared.

    KEY=VALUE changes the config, also that of a checkpoint; the exported file contains the changed config.

    \b
    Examples:
      seg-kernel export work_dirs/my/TIME
      seg-kernel export my.yaml --weights best.pt --out model.onnx
      seg-kernel export best.pt --size 512x512 --with-preprocess --with-labels
      seg-kernel export best.pt --out model.xml --precision int8
    """
    from segkernel.config.text import read_text

    if second and len(images) != 1:
        raise click.UsageError("--second goes with one --image, the first of the two")
    problems: list[Problem] = []
    spec = read_text(kind, "--format", problems) if kind else None
    if problems:
        raise ConfigError(problems)
    path = export_model(
        model,
        weights,
        spec,
        image=[(images[0], second)] if second else [*images],
        overrides=overrides,
        arguments=_arguments(options),
        **options,
    )
    if print_graph:
        click.echo(_graph_text(path, spec))
    click.echo(f"wrote {path}\nnext  seg-kernel predict {path} IMAGE...")


def _graph_text(path: Path, spec: Any) -> str:
    """Return the operators of a file that this process wrote."""
    from segplug_deploy.exporter import VerifiedExporter

    exporter = _chosen(spec, None, path, {})
    if not isinstance(exporter, VerifiedExporter):
        raise UsageError(f"files of {type(exporter).__name__} cannot be printed")
    return exporter.open(path, "cpu").graph_text()


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options that are arguments of an exporter, and return those that were given."""
    given = {name: options.pop(name) for name in ("precision", "with_preprocess", "with_labels", "dynamic")}
    given["dynamic"] = DYNAMIC.get(given["dynamic"])
    return {name: value for name, value in given.items() if value is not None and (value or name == "dynamic")}


def export_model(
    model: str | Path,
    weights: str | Path | None = None,
    exporter: str | Mapping[str, Any] | Exporter | None = None,
    *,
    image: Image | tuple[Image, Image] | Sequence[Any] | None = None,
    size: tuple[int, int] | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    arguments: Mapping[str, Any] | None = None,
    count: int = 8,
    calibration: int = 32,
    tta: bool = False,
    show_dir: str | Path | None = None,
    opacity: float = 0.5,
    trust: bool = False,
) -> Path:
    """Export a trained model; return the file, which is only written if its outputs match the model's.

    Args:
        model: A run directory, a checkpoint, or a config with weights.
        weights: A checkpoint.
        exporter: A name, ``{type: NAME, argument: value}``, or a built one. A name takes its arguments from the
            config's section ``export`` if it is there; None is the exporter for the suffix of ``out``, else the first
            exporter there, else ``ONNXExporter``.
        image: The image to verify on, two for a model that compares two, or a list of these; None takes the first of
            the config's test, validation or training set, or noise, with a warning, where they may not or cannot be
            read.
        size: (height, width) in pixels to resize the first image to; None keeps its size after the config's transforms.
        out: The file; None puts it next to the weights, or into the run directory.
        overrides: ``key=value`` strings for the config.
        arguments: Of the exporter; they override those of the config.
        count: Number of images of the data to verify on.
        calibration: Number of images of the validation set for ``precision: int8``.
        tta: Whether to set ``evaluate.tta`` of the file's config to the usual views if it is empty, so that `test` of
            the file averages over them. The file itself computes one view.
        show_dir: Folder for a picture of each image: the model's labels beside the file's.
        opacity: Opacity of the colours in it, 0 to 1.
        trust: As in `segkernel.Predictor`.

    Raises:
        ExportError: The model cannot be exported, or the file's outputs differ.
        ConfigError, CheckpointError, DataError, UsageError: As in `segkernel.Predictor`.
    """
    from segkernel.nn import resize
    from segkernel.predictor import Predictor
    from segplug_deploy.evidence import draw_pairs, evidence_for
    from segplug_deploy.exporter import OPEN_SIZE, VerifiedExporter
    from segplug_deploy.runtime import ExportedSegmentor

    log.info("loading %s", model)
    predictor = Predictor(model, weights, device="cpu", overrides=overrides, trust=trust, random_weights=True)
    if isinstance(predictor.model, ExportedSegmentor):
        raise UsageError(f"{weights or model}: is an exported file already; export the checkpoint that it is of")
    chosen = _chosen(exporter, predictor.config, out, arguments or {})
    if out and Path(out).suffix != chosen.suffix:
        raise UsageError(f"{out}: files of {type(chosen).__name__} end in {chosen.suffix}, by which they are opened")
    given = image if isinstance(image, list) else [] if image is None else [image]
    evidence = evidence_for(predictor, chosen, given, count, calibration)
    example = predictor.example(evidence.sources[0])
    if size:
        example = resize(example, size=size, mode="bilinear", align_corners=False)
    path = Path(out) if out else _next_to(Path(weights or model), chosen.suffix)
    metadata = _metadata(predictor, chosen, tta)
    extra = {"evidence": evidence} if isinstance(chosen, VerifiedExporter) else {}
    log.info("%s", chosen.export(predictor.model, path, example, metadata, **extra))
    if show_dir:
        fixed = None if getattr(chosen, "dynamic", True) in OPEN_SIZE else (example.shape[-2], example.shape[-1])
        output = predictor.model.outputs["seg"]
        draw_pairs(evidence, path, Path(show_dir), predictor.palette, opacity, fixed, output)
    return path


def _next_to(source: Path, suffix: str) -> Path:
    return source / f"model{suffix}" if source.is_dir() else source.with_suffix(suffix)


def _chosen(
    exporter: str | Mapping[str, Any] | Exporter | None,
    config: Config | None,
    out: str | Path | None,
    arguments: Mapping[str, Any],
) -> Exporter:
    """Return the exporter, built with the arguments."""
    from segkernel import build
    from segkernel.loading import catalog_of

    catalog = catalog_of(config)
    if exporter is None and out and Path(out).suffix:
        exporter = _by_suffix(Path(out).suffix, catalog)
    if isinstance(exporter, str):
        exporter = _full_name(exporter, catalog)
    if exporter is None or isinstance(exporter, str):
        own = (config.get("export") if config else None) or ()
        spec = next((spec for spec in own if exporter in (None, spec.get("type"))), {"type": exporter or USUAL})
        return build("exporters", {**spec, **arguments}, catalog=catalog)
    if not isinstance(exporter, Mapping):
        return exporter
    # The user names it, so it may be an import path.
    return build("exporters", {**exporter, **arguments}, catalog=replace(catalog, trusted=True))


def _full_name(name: str, catalog: Catalog) -> str:
    """Return an exporter's name for a short one: ``openvino`` is ``OpenVINOExporter``."""
    return next((full for full in catalog.names("exporters") if full.lower() == f"{name.lower()}exporter"), name)


def _by_suffix(suffix: str, catalog: Catalog) -> str | None:
    """Return the exporter that writes files with a suffix; None when there is none, or several."""
    found = [row.name for row, kind in catalog.load_all("exporters") if getattr(kind, "suffix", "") == suffix]
    return found[0] if len(found) == 1 else None


def _metadata(predictor: Predictor, exporter: Exporter, tta: bool) -> dict[str, Any]:
    """Return the metadata of the file: that of the model, its licence, and the views of the config."""
    metadata = predictor.metadata()
    if predictor.config and predictor.config.meta.get("licence"):
        metadata["licence"] = str(predictor.config.meta["licence"])
    evaluate = dict(metadata["config"].get("evaluate") or {})
    if getattr(getattr(exporter, "interface", None), "labels", False):
        if tta:
            raise UsageError("labels of several views cannot be averaged: choose --tta or --with-labels")
        # The file computes labels of whole images, whatever the config says of windows.
        evaluate = {**evaluate, "test_cfg": {"mode": "whole"}, "tta": None}
        metadata["config"] = {**metadata["config"], "evaluate": evaluate}
    elif tta:
        metadata["config"] = {**metadata["config"], "evaluate": {**evaluate, "tta": evaluate.get("tta") or VIEWS}}
    return metadata


USUAL = "ONNXExporter"
VIEWS = {"scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "flip": True}
"""The test-time augmentation of most publications."""
