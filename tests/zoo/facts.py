"""Facts of MMSegmentation's published experiments as sections of our configs, and ours as the same sections.

`renamed` converts a line of ``experiments.jsonl`` by the code of ``seg-kernel import``. Two configs mean the same if
their `canonical` forms are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkernel.config.marks import MarkedDict, mark
from segplug_heads.moving_in.canonical import DEFAULTS as DEFAULTS
from segplug_heads.moving_in.canonical import canonical as canonical
from segplug_heads.moving_in.notes import Notes
from segplug_heads.moving_in.sections import translate_config
from segplug_heads.moving_in.training import devices_of

NOT_CARRIED = ("ForceDefaultOptimWrapperConstructor", "force_default_settings")
"""Names of VPD's optimiser, in notes of the import."""


def renamed(fact: Mapping[str, Any]) -> dict[str, Any]:
    """Return a published experiment in our sections."""
    devices, notes = devices_of(fact["name"]), Notes()
    assert devices is not None
    sections = translate_config(_config(fact), devices, notes)
    assert [note for note in notes if not any(name in note.what for name in NOT_CARRIED)] == []
    return ours({"engine": {}, "hooks": [], **sections})


def _config(fact: Mapping[str, Any]) -> MarkedDict:
    """Return the sections of a config of 1.x."""
    data, loop = fact["data"], fact["loop"]
    return mark(
        {
            "model": fact["model"],
            "train_dataloader": {"dataset": data["train"], "batch_size": data["batch_size"]},
            "val_dataloader": {"dataset": data["val"]},
            "val_evaluator": data["evaluator"],
            "optim_wrapper": fact["optim"],
            "param_scheduler": fact["schedule"],
            "train_cfg": {key: value for key, value in loop.items() if key != "type"},
            "custom_hooks": fact["custom_hooks"],
        }
    )


def ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same sections as `renamed` for one of our configs."""
    data, optim, schedule = config["data"], config["optim"], config["schedule"]
    engine = {key: value for key, value in config.get("engine", {}).items() if key != "type"}
    return {
        "model": dict(config["model"]),
        "data": {key: data[key] for key in ("train", "val", "train_transforms", "eval_transforms", "preprocess")},
        "optim": {key: optim.get(key) for key in ("optimizer", "batch_size", "paramwise", "clip_grad")},
        "schedule": {key: schedule.get(key) for key in ("iterations", "val_interval", "val_begin", "lr")},
        "engine": engine,
        "hooks": [hook for hook in config.get("hooks", []) if hook["type"] != "CheckpointHook"],  # no facts
        "evaluate": {"metrics": config["evaluate"]["metrics"]},
    }
