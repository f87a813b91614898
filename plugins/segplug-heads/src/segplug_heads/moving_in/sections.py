"""A config of MMSegmentation 1.x as the sections of ours.

translate_config(config, devices=4, notes=Notes())["model"]
"""

from __future__ import annotations

from segkernel.config.marks import MarkedDict
from segplug_heads.moving_in.canonical import lean
from segplug_heads.moving_in.data import data_section
from segplug_heads.moving_in.marking import made, put
from segplug_heads.moving_in.model import model_section
from segplug_heads.moving_in.notes import Notes
from segplug_heads.moving_in.running import environment, evaluate_section, hooks_section
from segplug_heads.moving_in.training import engine_section, optim_section, schedule_section

NO_SECTIONS = ("norm_cfg", "optimizer", "test_evaluator", "visualizer", "val_cfg", "test_cfg", "train_cfg", "tta_model")
"""Names of mappings with a type that need no note: usual variables, and sections that are read elsewhere."""


def translate_config(config: MarkedDict, devices: int, notes: Notes) -> MarkedDict:
    """Return our sections; empty ones are left out.

    Args:
        config: All names of a config of 1.x, or some of them.
        devices: Number of devices, which the batch size of a loader is multiplied by.
        notes: What cannot be carried over is added here.
    """
    result = MarkedDict()
    model = config.get("model")
    if isinstance(model, MarkedDict):
        put(result, "model", made(config.places.get("model"), model=lean(model_section(model, notes))))
    sections = {
        "data": data_section(config, notes),
        "optim": optim_section(config, devices, notes),
        "schedule": schedule_section(config, notes),
        "engine": engine_section(config, notes),
        "hooks": hooks_section(config, notes),
        "evaluate": evaluate_section(config, notes),
    }
    result.update({name: lean(section) for name, section in sections.items() if section})
    result.update(environment(config, notes))
    return result
