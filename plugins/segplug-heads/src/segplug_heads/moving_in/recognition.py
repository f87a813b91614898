"""How a config of MMSegmentation is told from one of ours, and 0.x from 1.x."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkernel.config.text import read_mapping
from segplug_heads.moving_in.limits import MOST_BYTES
from segplug_heads.moving_in.marking import as_list

SECTIONS = ("model", "train_dataloader", "val_dataloader", "test_dataloader", "optim_wrapper", "param_scheduler")
"""Names that tell that a file is a config of MMSegmentation 1.x."""

OURS = ("optim", "schedule", "engine", "hooks", "evaluate")
"""Sections that only configs of ours have; in Python, these are names like any other."""

_BEFORE = ("optimizer_config", "lr_config", "checkpoint_config", "log_config", "optimizer", "runner", "evaluation")
_AFTER = (*SECTIONS[1:], "default_hooks")
_ONLY_THEIRS = {*_AFTER, *_BEFORE[:4], "custom_imports"}  # not those that a config of ours may have by mistake


def is_former(config: Mapping[str, Any]) -> bool:
    """Whether a config of MMSegmentation is of 0.x."""
    data = config.get("data")
    loads = isinstance(data, Mapping) and bool({"samples_per_gpu", "train", "val", "test"} & set(data))
    return not any(key in config for key in _AFTER) and (loads or any(key in config for key in _BEFORE))


def is_theirs(path: Path) -> bool:
    """Whether a YAML or JSON file has sections of MMSegmentation's configs, and none that only ours have.

    One that only changes the model of bases in Python is such a file, too.
    """
    try:
        text = path.read_text("utf-8-sig") if path.is_file() and path.stat().st_size <= MOST_BYTES else ""
    except (OSError, UnicodeDecodeError):
        return False
    if not any(name in text for name in (*_ONLY_THEIRS, ".py")):  # parsing takes longer
        return False
    config: Mapping[str, Any] = read_mapping(text, str(path), []) or {}
    keys, bases = set(config), as_list(config.get("_base_"))
    if bases and keys <= {"_base_", "model"}:
        return all(str(name).endswith(".py") for name in bases)
    return bool(keys & _ONLY_THEIRS) and not keys & set(OURS)
