"""From a name, a config, a checkpoint, an exported file or a module to a model with its weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkernel import checkpoint, rundir
from segkernel.building import build, check
from segkernel.catalog import Catalog
from segkernel.config import Config, load_config
from segkernel.config.marks import MarkedDict, Place
from segkernel.config.sections import Metadata
from segkernel.errors import CheckpointError, ConfigError, Problem, UntrustedError, UsageError
from segkernel.interfaces.model import Exporter, Segmentor
from segkernel.labels import Labels
from segkernel.nn.size_limit import SizeLimit as SizeLimit
from segkernel.weights import load_into

log = logging.getLogger(__name__)

Source = str | Path | Mapping[str, Any] | Config | nn.Module
"""What a model can be loaded from."""
ExporterChoice = str | Mapping[str, Any] | Exporter | None
"""An exporter by its name, as a spec with arguments, or built; None takes the one for the file's suffix."""


@dataclass
class LoadedModel:
    """A model and its metadata.

    Args:
        model: A segmentor, or the module that was given.
        meta: Metadata of the weights: classes, palette, preprocess; empty without weights.
        config: The config it was built from, if any.
        random: Whether it is randomly initialised, as no weights were given.
    """

    model: Any
    meta: Mapping[str, Any]
    config: Config | None
    random: bool = False


def catalog_of(config: Mapping[str, Any] | None) -> Catalog:
    """Return the catalog with a config's preferences."""
    plugins = (config or {}).get("plugins") or {}
    prefer = plugins.get("prefer", ()) if isinstance(plugins, Mapping) else ()
    named = prefer if isinstance(prefer, list | tuple) else ()  # a check reports anything else
    catalog = Catalog.discover().prefer(list(map(str, named))) if named else Catalog.discover()
    return replace(catalog, trusted=getattr(config, "trusted", True))


def ambient_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default arguments of all heads, losses and data sets of a config: ``data.task``."""
    task = data.get("task") if isinstance(data := config.get("data"), Mapping) else None
    return {} if task is None else {"task": task}


def load_model(
    source: Source,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    exporter: ExporterChoice = None,
    device: str | None = None,
    trust: bool = False,
) -> LoadedModel:
    """Load a model.

    Args:
        source: A packaged or local name, with its published weights unless the overrides change the model, a config
            file, a mapping, a loaded config, a run directory (its best checkpoint, else its last), a checkpoint that
            holds its config, an exported file, or a built module.
        weights: A checkpoint or a run directory, which must fit completely, or an exported file that replaces the
            model.
        overrides: ``key=value`` strings for the config.
        exporter: The exporter that loads an exported file; as for `load_exported`.
        device: Where an exported file runs; as for `load_exported`.
        trust: Whether a config from a checkpoint or an exported file may name import paths and files to read, which
            lets it run any code; else it can only use what installed plugins offer.

    Raises:
        ConfigError, CheckpointError, ExportError, UsageError: When the parts are missing or do not fit together.
        UntrustedError: When a file's config names code or other files.
    """
    source, weights = located(source), located(weights)
    if isinstance(source, nn.Module):
        return LoadedModel(source, load_strict(source, weights) if weights else getattr(source, "metadata", {}), None)
    if not isinstance(source, str | Path | Mapping):
        raise UsageError(f"a model is a name, a file or a module, not a {type(source).__name__}")
    if isinstance(source, str | Path) and _is_model_file(Path(source)):
        if not _holds_weights(source):
            if weights is not None:
                raise UsageError(f"{source}: holds its own weights; {weights} cannot be loaded into it")
            exported = load_exported(source, exporter, device, trust=trust)
            stored = checked(exported.metadata, source).get("config")
            config = _stored_config(stored, overrides, trust) if stored else None
            return LoadedModel(exported, exported.metadata, config)
        content = checkpoint.load(source)
        stored = content["meta"].get("config")
        if not isinstance(stored, Mapping) or not stored.get("model"):
            hint = "pass that as the model and this file as weights"
            raise CheckpointError(f"{source}: holds weights, but not their config; {hint}")
        # Temporary tensors count as well, and third-party weights may be fewer before they are converted.
        held = sum(map(torch.numel, content["state_dict"].values()))
        with nullcontext() if trust else SizeLimit(2 * held + (1 << 20)):
            return _with_weights(_stored_config(stored, overrides, trust), weights or content, exporter, device, trust)
    config = load_config(source, overrides)
    changed = any(text.lstrip("+~").startswith(("model", "data.num_classes", "data.task")) for text in overrides)
    named = isinstance(source, str) and not source.lower().endswith((".yaml", ".yml", ".json", ".py")) and not changed
    return _with_weights(config, weights or (config.meta.get("weights") if named else None), exporter, device, trust)


def located(source: Any) -> Any:
    """Return the file of an address, a run directory, or a folder with a published model; others unchanged."""
    if not isinstance(source, str | Path) or not str(source):
        return source
    if ("://" in str(source) or Path(source).is_dir()) and (file := checkpoint.locate(source)).is_file():
        return file
    if len(published := [*Path(source).glob("*.safetensors")]) == 1:
        return published[0]
    if runs := sorted(Path(source).glob("*/checkpoints")):
        raise UsageError(f"{source}: is a folder of runs; name one, such as {runs[-1].parent}")
    return rundir.trained(Path(source)) if Path(source, "checkpoints").is_dir() else source


def _stored_config(stored: Mapping[str, Any], overrides: Sequence[str], trust: bool) -> Config:
    """Return the config in a weights file, which may not name code or files unless ``trust``."""
    if "_base_" in stored and not trust:
        raise UntrustedError(f"another config, {stored['_base_']}", "_base_")
    config = load_config(stored, overrides)
    config.trusted = trust
    return config


def _is_model_file(path: Path) -> bool:
    """Whether this is a checkpoint or an exported file, not a config or a config's name, which may have dots."""
    suffix = path.suffix.lower()
    if suffix in ("", ".yaml", ".yml", ".json", ".py"):
        return False
    return suffix in checkpoint.SUFFIXES or path.is_file() or _exporter_of(suffix, None, Catalog.discover()) is not None


def _holds_weights(path: str | Path) -> bool:
    suffix = Path(path).suffix.lower()
    return suffix in ("", *checkpoint.SUFFIXES) or checkpoint.reader_of(suffix) is not None


def _with_weights(
    config: Config, weights: str | Path | dict[str, Any] | None, exporter: Any, device: str | None, trust: bool
) -> LoadedModel:
    if weights is None:
        return LoadedModel(make_model(config), {}, config, random=True)
    if not isinstance(weights, dict) and not _holds_weights(weights):
        exported = load_exported(weights, exporter, device, config, trust)
        return LoadedModel(exported, checked(exported.metadata, weights), config)
    model = make_model(config, pretrained=False)  # all of it comes from the weights
    with catalog_of(config).active():
        return LoadedModel(model, load_strict(model, weights), config)


def make_model(config: Config, catalog: Catalog | None = None, pretrained: bool = True) -> Segmentor:
    """Build a config's model; a part that names ``pretrained`` weights gets them, a segmentor's go into its backbone.

    Args:
        config: The whole config.
        catalog: Where its components are looked up; None is the installed ones, with the config's preferences.
        pretrained: Whether to load them; False turns off every argument ``pretrained``.
    """
    if "unavailable" in config.meta:
        raise ConfigError(unavailable(config))
    if not config.get("model"):
        raise ConfigError(Problem("this config has no model", "model", str(config.source)))
    catalog = catalog or catalog_of(config)
    spec, ambient = config["model"], ambient_of(config)
    with SizeLimit():
        return build("segmentors", spec, path="model", catalog=catalog, ambient=ambient, load_pretrained=pretrained)


def unavailable(config: Config) -> Problem:
    """Return why a config is listed but cannot be built."""
    return Problem(f"{config.name} cannot be built: {config.meta['unavailable']}", "model", config.source)


def load_strict(model: nn.Module, weights: str | Path | dict[str, Any]) -> Mapping[str, Any]:
    """Load weights that must fit completely; return the file's ``meta``."""
    state, report = load_into(model, weights, "strict")
    log.debug("%s\n%s", state["path"], report)
    return state["meta"]


def load_exported(
    path: str | Path,
    exporter: ExporterChoice = None,
    device: str | None = None,
    config: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Any:
    """Return an exported file as a segmentor that only predicts.

    Args:
        path: The file.
        exporter: A name, ``{type: NAME, argument: value}`` or a built one. None takes the one for the file's suffix,
            from the config's section ``export`` with its arguments, else an installed one.
        device: The device to run on, as torch writes it; ``auto`` leaves that to the exporter, None is the config's
            ``engine.device``.
        config: Provides ``export``, ``engine.device`` and ``plugins.prefer``.
        trust: Whether code in the file may run; formats that hold some ask `Catalog.current` for it.

    Raises:
        UsageError: When no installed exporter reads such files.
        ComponentError: When the package for it is missing; or several read them, and none is preferred.
        ExportError: When the file cannot be loaded, cannot run on the device, or holds code that is not trusted.
    """
    catalog, suffix = catalog_of(config), Path(path).suffix.lower()
    spec = {"type": exporter} if isinstance(exporter, str) else exporter or _exporter_of(suffix, config, catalog)
    if spec is None:
        message = f"{path}: no exporter reads {suffix or 'such'} files; weights end in {', '.join(checkpoint.SUFFIXES)}"
        raise catalog.why_none("exporters", str(path)) or UsageError(message)
    device = device or ((config or {}).get("engine") or {}).get("device")
    place = None if device == "auto" else device
    with replace(catalog, trusted=trust).active():
        return build("exporters", spec, path="exporter", catalog=catalog).load(Path(path), place)


def _exporter_of(suffix: str, config: Mapping[str, Any] | None, catalog: Catalog) -> Any:
    """Return the spec of the exporter for a suffix: the config's own, else an installed one."""
    for spec in (config or {}).get("export") or ():
        kind = spec.get("type") if isinstance(spec, Mapping) else spec
        if getattr(catalog.load("exporters", kind) if isinstance(kind, str) else kind, "suffix", None) == suffix:
            return spec
    found = catalog.choose("exporters", suffix, lambda each: getattr(each, "suffix", None) == suffix)
    return found and {"type": found}


def checked(meta: Mapping[str, Any], source: str | Path) -> Mapping[str, Any]:
    """Return a file's metadata, `Metadata` and more, after checking its types.

    Raises:
        ConfigError: A value has the wrong type.
    """
    known = {key: meta[key] for key in Metadata.__annotations__ if key in meta}
    if problems := check(Metadata, MarkedDict(known, place=Place(str(source)))):
        raise ConfigError(problems)
    return meta


def labels_in(meta: Mapping[str, Any]) -> Labels | None:
    """Return the labels from a mapping's ``classes`` and ``palette``; None without classes."""
    classes, palette = meta.get("classes"), meta.get("palette") or ()
    return Labels(tuple(classes), tuple(palette) if len(palette) == len(classes) else ()) if classes else None


def labels_of(dataset: Any, catalog: Catalog) -> Labels | None:
    """Return the labels of a data set, its class, its name or its spec; None if unknown."""
    if isinstance(dataset, str | Mapping):
        spec = {"type": dataset} if isinstance(dataset, str) else dataset
        some = spec.get("metainfo")  # of the classes, in MMSegmentation's configs
        chosen = labels_in(some if isinstance(some, Mapping) and some.get("classes") else spec)
        dataset = chosen or catalog.load("datasets", str(spec.get("type")))
    for found in (dataset, getattr(dataset, "labels", None), getattr(dataset, "spec", None)):
        if isinstance(found, Labels):
            return found
    named = {name: getattr(dataset, name, None) for name in ("classes", "palette")}
    return labels_in(named) if isinstance(named["classes"], Sequence) else None
