"""Where the checkpoints of other tools keep weights, their average, and the classes."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

log = logging.getLogger(__name__)

SOURCE = "source_state_dict"
"""Checkpoint key of the weights that training continues from, where ``state_dict`` is their average."""
AVERAGES = ("state_dict_ema", "model_ema")
WEIGHTS = ("state_dict", "model", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")
"""Of DistributedDataParallel and of torch.compile."""
UNUSED = ("data_preprocessor.",)
"""Names of tensors that belong to no model: mean and deviation of the images are part of the config."""


def arrange(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a checkpoint's entries under our names: averaged weights in ``state_dict``, classes in ``meta``.

    mmengine's EMAHook already saves the average as ``state_dict``; mmcv's keeps it in buffers ``ema_NAME``, and swaps
    the two before a checkpoint only if it counts epochs.
    """
    key = next((key for key in (*AVERAGES, *WEIGHTS) if isinstance(content.get(key), Mapping)), None)
    weights = _named(content if key is None else content[key])
    if not weights:
        return content
    meta = content.get("meta")
    meta = dict(meta) if isinstance(meta, Mapping) else {}
    source = _trained(content, key)
    buffers = {name: f"ema_{name.replace('.', '_')}" for name in weights}
    if averaged := {name: weights[buffer] for name, buffer in buffers.items() if buffer in weights}:
        for name in averaged:
            del weights[buffers[name]]
        source = OrderedDict(weights)
        if "EpochBasedRunner" in str(meta.get("config")):
            source.update(averaged)
        else:
            weights.update(averaged)
    if source:
        log.info("the averaged weights (EMA) of the file are used")
    rest = {} if key is None else {name: entry for name, entry in content.items() if name not in (*AVERAGES, *WEIGHTS)}
    return {**rest, **({SOURCE: source} if source else {}), "state_dict": weights, "meta": _with_classes(meta)}


def _named(weights: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Return the tensors without a prefix that all names share, and without `UNUSED` ones."""
    named = OrderedDict((name, value) for name, value in weights.items() if isinstance(value, Tensor))
    for prefix in PREFIXES:
        if named and all(name.startswith(prefix) for name in named):
            named = OrderedDict((name.removeprefix(prefix), value) for name, value in named.items())
    kept = OrderedDict((name, value) for name, value in named.items() if not name.startswith(UNUSED))
    if versions := getattr(weights, "_metadata", None):  # of layers, by the names of modules
        cut = {name.removeprefix("module").removeprefix("."): value for name, value in versions.items()}
        kept._metadata = OrderedDict(cut if versions.keys() & {"module"} else versions)  # type: ignore[attr-defined]
    return kept


def _trained(content: Mapping[str, Any], key: str | None) -> OrderedDict[str, Any]:
    """Return the weights behind the average of a file, empty if it has none."""
    if key in AVERAGES:
        trained: Mapping[str, Any] = next(
            (content[name] for name in WEIGHTS if isinstance(content.get(name), Mapping)), {}
        )
        return _named(trained)
    found = content.get("ema_state_dict")  # of mmengine, exchanged with the average when it was saved
    entries = found.items() if key is not None and isinstance(found, Mapping) else ()
    return OrderedDict((name.removeprefix("module."), value) for name, value in entries if name.startswith("module."))


def _with_classes(meta: dict[str, Any]) -> dict[str, Any]:
    """Return ``meta`` with classes and palette: mmengine keeps them in ``dataset_meta``, mmcv in capital letters."""
    inner = meta.get("dataset_meta")
    known = {**inner, **meta} if isinstance(inner, Mapping) else meta
    found = {key: known.get(key, known.get(key.upper())) for key in ("classes", "palette")}
    return meta | {key: value for key, value in found.items() if value is not None}
