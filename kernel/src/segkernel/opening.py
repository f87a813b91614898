"""From a name, a config, a checkpoint, an exported file or a module to a model with its weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from segkernel import checkpoint
from segkernel.build import build
from segkernel.catalog import Catalog
from segkernel.config import Config, load_config
from segkernel.errors import BrokenPluginError, CheckpointError, ConfigError, Problem, UsageError
from segkernel.interfaces.model import Exporter, Segmentor
from segkernel.task import model_for_task
from segkernel.weights import LoadReport, load_into, load_weights, prepare

log = logging.getLogger(__name__)

WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".safetensors")
"""Suffixes of torch's own files; any other file was written by an exporter."""

Source = str | Path | Mapping[str, Any] | Config | nn.Module
"""What a model can be opened from."""


@dataclass
class Opened:
    """A model, and what is known beside it.

    Args:
        model: A segmentor, or the module that was given.
        meta: Of the weights: classes, palette, preprocess; empty without weights.
        config: The config it was built from, if any.
        random: Whether no weights were given: what it predicts means nothing.
    """

    model: Any
    meta: Mapping[str, Any]
    config: Config | None
    random: bool = False


def catalog_of(config: Mapping[str, Any] | None) -> Catalog:
    """Return the catalogue with a config's preferences."""
    plugins = (config or {}).get("plugins") or {}
    prefer = plugins.get("prefer", ()) if isinstance(plugins, Mapping) else ()
    named = prefer if isinstance(prefer, list | tuple) else ()  # anything else is a problem that a check names
    return Catalog.discover().prefer(list(named)) if named else Catalog.discover()


def open_model(source: Source, weights: str | Path | None = None, overrides: Sequence[str] = ()) -> Opened:
    """Open a model.

    Args:
        source: A packaged or local name, which brings its published weights if the overrides leave the model as it
            is, a config file, a mapping, a loaded config, a checkpoint that holds its config, an exported file, or a
            built module.
        weights: A checkpoint, which must fit completely, or an exported file that takes the model's place.
        overrides: ``key=value`` strings for the config.

    Raises:
        ConfigError, CheckpointError, UsageError: When the parts are missing or do not fit together.
    """
    if isinstance(source, nn.Module):
        return Opened(source, fill(source, weights) if weights else getattr(source, "metadata", {}), None)
    if not isinstance(source, str | Path | Mapping):
        raise UsageError(f"a model is a name, a file or a torch module, not a {type(source).__name__}")
    suffix = Path(source).suffix.lower() if isinstance(source, str | Path) else ""
    if suffix in WEIGHTS:
        stored = checkpoint.load(source)["meta"].get("config")  # type: ignore[arg-type]
        if not isinstance(stored, Mapping) or not stored.get("model"):
            message = (
                "holds weights, but not the config they belong to; give that as the model and this file as weights"
            )
            raise CheckpointError(f"{source}: {message}")
        return _with_weights(load_config(stored, overrides), weights or source)  # type: ignore[arg-type]
    if suffix not in ("", ".yaml", ".yml") and (Path(source).is_file() or suffix == ".onnx"):  # type: ignore[arg-type]
        exported = load_exported(source)  # type: ignore[arg-type]
        stored = exported.metadata.get("config")
        return Opened(exported, exported.metadata, load_config(stored, overrides) if stored else None)
    config = load_config(source, overrides)
    changed = any(text.lstrip("+~").startswith(("model", "data.num_classes", "data.task")) for text in overrides)
    named = isinstance(source, str) and suffix not in (".yaml", ".yml") and not changed
    return _with_weights(config, weights or (config.meta.get("weights") if named else None))


def _with_weights(config: Config, weights: str | Path | None) -> Opened:
    if weights is None:
        return Opened(make_model(config), {}, config, random=True)
    if Path(weights).suffix.lower() not in ("", *WEIGHTS):
        exported = load_exported(weights)
        return Opened(exported, exported.metadata, config)
    model = make_model(config, pretrained=False)  # all of it comes from the weights
    return Opened(model, fill(model, weights), config)


def make_model(config: Config, catalog: Catalog | None = None, pretrained: bool = True) -> Segmentor:
    """Build a config's model; a part that names ``pretrained`` weights gets them, a segmentor's go into its backbone.

    Args:
        config: The whole config.
        catalog: Where its components are looked up; None is the installed ones, as the config prefers them.
        pretrained: Whether to load them.
    """
    if "unavailable" in config.meta:
        raise ConfigError(unavailable(config))
    if not config.get("model"):
        raise ConfigError(Problem("this config has no model", "model", str(config.source)))
    catalog = catalog or catalog_of(config)
    model = build("segmentors", model_for_task(config, catalog), path="model", catalog=catalog)
    for name, part in model.named_modules() if pretrained else ():
        if start := getattr(part, "pretrained", None):
            target: Any = part.backbone if isinstance(part, Segmentor) else part
            _, report = load_into(target, start, "finetune")
            log.info("%s from %s\n%s", name or "backbone", start, report)
    return model


def unavailable(config: Config) -> Problem:
    """Return why a config is listed but cannot be built."""
    return Problem(f"{config.name} cannot be built: {config.meta['unavailable']}", "model", config.source)


def fill(model: nn.Module, weights: str | Path) -> Mapping[str, Any]:
    """Load weights that must fit completely; return the file's ``meta``."""
    state, report = load_into(model, weights, "strict")
    log.debug("%s\n%s", weights, report)
    return state["meta"]


def load_exported(path: str | Path) -> Any:
    """Return an exported file as a segmentor that only predicts, through the installed exporter of its suffix.

    Raises:
        UsageError: When no installed exporter reads such files.
        ComponentError: When the one that does is known, but not installed.
    """
    catalog = Catalog.discover()
    suffix = Path(path).suffix.lower()
    for row in catalog.rows_of("exporters"):
        try:
            found = catalog.load_row(row)
        except BrokenPluginError as error:
            log.warning("%s", error)
            continue
        if getattr(found, "suffix", None) == suffix:
            exporter: Exporter = found()
            return exporter.load(Path(path))
    if suffix == ".onnx":
        catalog.find("exporters", "ONNXExporter")  # says which package is missing, or hidden
    hint = f"; checkpoints end in {', '.join(WEIGHTS)}"
    raise UsageError(f"{path}: no installed exporter reads {suffix or 'such'} files{hint}")


def convert_weights(
    source: str | Path,
    model: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    layout: str | None = None,
    backbone: bool = False,
) -> tuple[Path, LoadReport]:
    """Write weights under the names of a model; return the file, and what of it fits.

    Args:
        source: As for `checkpoint.load`.
        model: A packaged or local name, a config file, or a mapping.
        out: The file to write; by default ``NAME_converted.pth`` in the current folder.
        layout: Whose layout it is, when its keys alone do not tell.
        backbone: Whether the weights are those of the model's backbone alone.

    Raises:
        CheckpointError: The source is no file of weights, or nothing in it fits.
    """
    built = make_model(load_config(model), pretrained=False)
    target: Any = built.backbone if backbone else built
    state = checkpoint.load(source)
    prepared = prepare(target, state["state_dict"], layout=layout)
    report = load_weights(target, prepared.weights, mode="finetune")
    path = Path(out) if out else Path(f"{Path(str(source)).stem}_converted.pth")
    meta = {key: state["meta"][key] for key in ("classes", "palette") if key in state["meta"]}
    checkpoint.save(path, {"state_dict": {name: target.state_dict()[name] for name in report.loaded}, "meta": meta})
    return path, replace(report, layout=prepared.layout, resized=tuple(prepared.resized))
