"""Write a folder with the weights, config and card of a trained model.

publish("work_dirs/my/20261121_120000", licence="Apache-2.0")      # published/my/my-a1b2c3d4.safetensors and README.md
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from torch import nn

from segkernel import checkpoint
from segkernel.catalog import Catalog
from segkernel.config import load_config
from segkernel.errors import UsageError
from segkernel.files import file_name, replacing
from segkernel.labels import Labels
from segkernel.loading import LoadedModel, labels_in, labels_of, load_model, located
from segplug_backbones.publishing.card import Card
from segplug_backbones.weight_formats.downloads import sha256_of
from segplug_backbones.weight_formats.layouts import SOURCE
from segplug_backbones.weight_formats.safetensors_files import write

log = logging.getLogger(__name__)

KEPT = ("classes", "palette", "preprocess", "test_cfg", "plugins", "iteration", "torch", "metrics")
"""Metadata of a checkpoint that is published; the rest, such as fingerprints of the data, is not."""
LOCAL = ("work_dir", "load_from", "resume")
"""Sections of a config that only concern the author's machine."""
CARD, CONFIG = "README.md", "config.yaml"


def publish(
    source: str | Path,
    out: str | Path | None = None,
    *,
    config: str | Path | None = None,
    name: str = "",
    licence: str = "",
    classes: Sequence[str] = (),
    address: str = "",
    force: bool = False,
    trust: bool = False,
) -> Path:
    """Write a folder with ``NAME-HASH.safetensors``, ``README.md`` and ``config.yaml``; return the weights file.

    Args:
        source: A run directory (its best checkpoint), or a checkpoint. Averaged weights are taken where it has them.
        out: The folder; by default ``published/NAME``.
        config: The config of a checkpoint that holds none, such as MMSegmentation's.
        name: Name of the model; by default that of the run, else of the file.
        licence: Identifier of the licence, such as ``Apache-2.0``.
        classes: Names of classes, for a checkpoint that holds none.
        address: Where others will load the model from, for the card.
        force: Whether to replace files that were published in the folder before.
        trust: Whether the config in the checkpoint may name import paths; others then need ``trust``, too.

    Raises:
        UsageError: When there is no config, or there are no classes; when the folder contains files.
        CheckpointError: When the weights do not fit the config, or the file cannot be written.
        UntrustedError: When the config in the checkpoint names code.
    """
    file = located(source)
    if not isinstance(file, str | Path) or not Path(file).is_file():
        raise UsageError(f"{source}: no such run directory or checkpoint")
    loaded = load_model(config, file, trust=trust) if config else load_model(file, trust=trust)
    if loaded.config is None or not isinstance(loaded.model, nn.Module):
        raise UsageError(f"{source}: holds no weights to publish: is it an exported file?")
    content = checkpoint.load(file)
    meta = _metadata(source, loaded, classes, licence)
    name = file_name(name or _name_of(Path(file)))
    folder = Path(out or Path("published") / name)
    _check_free(folder, force)
    draft = folder / f".{name}.safetensors"
    write(draft, loaded.model.state_dict(), meta)
    digest = sha256_of(draft)
    path = draft.replace(folder / f"{name}-{digest[:8]}.safetensors")
    run = _run_of(Path(file))
    figures, figures_of = _figures(run, meta)
    card = Card(
        name,
        path.name,
        digest,
        meta,
        sum(each.numel() for each in loaded.model.parameters()),
        averaged=SOURCE in content,
        figures=figures,
        figures_of=figures_of,
        samples={part: entry.get("samples", 0) for part, entry in _json(run, "data.json").items()},
        environment=_json(run, "environment.json"),
        licence=licence,
        address=address,
    )
    for file_written, text in ((CARD, str(card)), (CONFIG, load_config(meta["config"]).to_yaml())):
        with replacing(folder / file_written) as temporary:
            temporary.write_text(text, "utf-8")
    return path


def _metadata(source: str | Path, loaded: LoadedModel, classes: Sequence[str], licence: str) -> dict[str, Any]:
    """Return what the file states about the model, as JSON values."""
    config: dict[str, Any] = json.loads(json.dumps(loaded.config.data if loaded.config else {}, default=str))
    config = {key: value for key, value in config.items() if key not in LOCAL}
    meta = {key: loaded.meta[key] for key in KEPT if loaded.meta.get(key) is not None}
    labels = labels_in(meta) or _labels_of_data(config)
    names = list(classes or (labels.classes if labels else ()))
    if not names:
        raise UsageError(f"{source}: the names of its classes are unknown: give them, --classes road,sidewalk,...")
    output = loaded.model.outputs.get("seg")
    if output is not None and output.classes not in (None, len(names)):
        raise UsageError(f"{source}: its model has {output.classes} classes, but there are names of {len(names)}")
    meta |= {"classes": names, "config": config, "licence": licence}
    if labels and len(labels.palette) == len(names):
        meta["palette"] = labels.palette
    for key, value in _local_paths(config):
        log.warning("the published config names a path on this machine, %s: %s", key, value)
    plain: dict[str, Any] = json.loads(json.dumps(meta, default=str))
    return plain


def _labels_of_data(config: Mapping[str, Any]) -> Labels | None:
    data = config.get("data") or {}
    found = (labels_of(data[part], Catalog.discover()) for part in ("test", "val", "train") if data.get(part))
    return next((labels for labels in found if labels), None)


def _local_paths(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the absolute paths in a config, with their keys."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _local_paths(entry, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _local_paths(entry, f"{key}[{index}]")
    elif isinstance(value, str) and (PurePath(value).is_absolute() or PureWindowsPath(value).is_absolute()):
        yield key, value


def _check_free(folder: Path, force: bool) -> None:
    """Check that a folder contains nothing; with ``force``, remove what was published in it before.

    Raises:
        UsageError: When it is a file, or contains files.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; name a folder: --out DIR")
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    ours = [
        path for path in there if path.name in (CARD, CONFIG) or re.search(r"-[0-9a-f]{8}\.safetensors$", path.name)
    ]
    if others := [path.name for path in there if path not in ours]:
        raise UsageError(f"{folder}: contains other files, such as {others[0]}; name another folder: --out DIR")
    if there and not force:
        raise UsageError(f"{folder}: already contains {there[0].name}; --force replaces it, --out DIR writes elsewhere")
    for path in ours:
        path.unlink()


def _run_of(file: Path) -> Path | None:
    """Return the run directory of a checkpoint."""
    return file.parent.parent if file.parent.name == "checkpoints" else None


def _name_of(file: Path) -> str:
    """Return the name of a run, without the time of its start, or of a file."""
    run = _run_of(file)
    if run is None:
        return file.stem
    run = run.resolve()
    return run.parent.name if re.fullmatch(r"\d{8}_\d{6}(_\d+)?", run.name) else run.name


def _figures(run: Path | None, meta: Mapping[str, Any]) -> tuple[dict[str, float], str]:
    """Return the metrics of the published weights: of a run's test, else those in the checkpoint."""
    lines = _read(run, "metrics.jsonl").splitlines()
    records = [record for record in map(_parsed, lines) if record.get("kind") == "test"]
    tested = [record for record in records if record.get("iteration") == meta.get("iteration")]
    found, of = (tested[-1], "test set") if tested else (meta.get("metrics") or {}, "validation set")
    figures = {key: value for key, value in found.items() if key != "iteration" and isinstance(value, int | float)}
    return {key: value for key, value in figures.items() if "loss" not in key and "acc_seg" not in key}, of


def _json(run: Path | None, name: str) -> dict[str, Any]:
    return _parsed(_read(run, name))


def _read(run: Path | None, name: str) -> str:
    """Return a file of a run, empty when there is none."""
    path = run / name if run else None
    return path.read_text("utf-8", "replace") if path and path.is_file() else ""


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:  # no file, or a line cut short when the run was killed
        return {}
    return value if isinstance(value, dict) else {}
