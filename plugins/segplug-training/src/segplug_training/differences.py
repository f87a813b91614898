"""Settings of a resumed run that differ from its checkpoint's, and which of the two applies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = "not there"
_NOT_TAKEN = {
    r"optim\.optimizer\.type$": "taken, with the state and the rates of the checkpoint's",
    r"optim\.(optimizer|paramwise)\b": "not taken, the checkpoint's optimizer keeps its own",
    r"(load_from|model\b.*\b(pretrained|init_cfg))\b": "not taken, the weights are the checkpoint's",
    r"seed$": "taken for the order of samples; the generators' states are the checkpoint's",
    r"hooks\b": "taken; what hooks have counted so far is the checkpoint's",
}
"""Keys that a checkpoint overrides, fully or in part; all others are taken from the config."""
_NO_SETTING = ("work_dir", "export")


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return a line for each setting that differs: its key, new and old value, and whether the new one is used.

    Args:
        stored: The config in the checkpoint, as plain values.
        given: The config of the resumed run, as plain values.
    """
    before, now = dict(_settings(stored)), dict(_settings(given))
    changed = [key for key in {**before, **now} if before.get(key, _ABSENT) != now.get(key, _ABSENT)]
    return [
        f"{key}: {_shown(now.get(key, _ABSENT))}, was {_shown(before.get(key, _ABSENT))}: {_what_became_of(key)}"
        for key in changed
    ]


def _settings(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its key, ``hooks[0].interval``; a list of plain values is one value."""
    if isinstance(config, Mapping) and config:
        for name, value in config.items():
            if key or name not in _NO_SETTING:
                yield from _settings(value, f"{key}.{name}" if key else name)
    elif isinstance(config, list) and any(isinstance(entry, Mapping) for entry in config):
        for index, value in enumerate(config):
            yield from _settings(value, f"{key}[{index}]")
    elif config is not None:  # a key without a value is treated as missing
        yield key, config


def _what_became_of(key: str) -> str:
    return next((text for pattern, text in _NOT_TAKEN.items() if re.match(pattern, key)), "taken")


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
