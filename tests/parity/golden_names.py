"""Published configs under our names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.former_names import SCOPED


def translate(config: Any) -> Any:
    """Return a copy of a model config with every ``type`` under our name."""
    if isinstance(config, list):
        return [translate(entry) for entry in config]
    if not isinstance(config, dict):
        return config
    copy = {key: translate(value) for key, value in config.items()}
    if isinstance(copy.get("type"), str):
        copy["type"] = our_name(copy["type"])
    return copy


def our_name(name: str) -> str:
    """Return our name of ``scope.Name`` or ``Name``.

    Raises:
        KeyError: The scoped name is not in the table.
    """
    scope, _, short = name.rpartition(".")
    return short if scope in ("", "mmseg") else SCOPED[name]


def our_paramwise(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Convert a ``paramwise_cfg``; in our configs layer decay is a separate option."""
    ours = dict(config or {})
    rate = ours.pop("decay_rate", ours.pop("layer_decay_rate", None))
    if rate is not None:
        stage_wise = ours.pop("decay_type", "layer_wise") == "stage_wise"
        ours["layer_decay"] = {"rate": rate, "num_layers": ours.pop("num_layers"), "stage_wise": stage_wise}
    return ours or None
