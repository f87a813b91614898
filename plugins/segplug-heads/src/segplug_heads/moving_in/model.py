"""``model`` of a config of MMSegmentation 1.x as our section."""

from __future__ import annotations

from typing import Any

from segkernel.config.marks import MarkedDict
from segplug_heads.moving_in.marking import put
from segplug_heads.moving_in.names import translate
from segplug_heads.moving_in.notes import Notes


def model_section(model: MarkedDict, notes: Notes) -> MarkedDict:
    """Return a model without its preprocessor, with its initial weights as the file name ``pretrained``."""
    result: MarkedDict = translate(model.without("data_preprocessor"))
    start = _drop_init(result, notes)
    if start:
        put(result, "pretrained", start, "checkpoint")
    if result.get("pretrained", "") is None:
        del result["pretrained"]
    if isinstance(result.get("train_cfg"), MarkedDict) and not any(result["train_cfg"].values()):
        del result["train_cfg"]
    window = result.get("test_cfg")
    if isinstance(window, MarkedDict) and window.get("mode") == "whole":  # the size of windows has no effect
        result["test_cfg"] = window.without("crop_size", "stride")
    return result


def _drop_init(spec: Any, notes: Notes, key: str = "") -> MarkedDict:
    """Drop all ``init_cfg``; return that of the backbone, and store files of others as ``pretrained`` of their part.

    Without a file, it describes random weights; classes here have those of their papers.
    """
    found = MarkedDict()
    if isinstance(spec, list):
        for entry in spec:
            _drop_init(entry, notes)
    elif isinstance(spec, MarkedDict):
        start = spec.pop("init_cfg", None)
        start = start if isinstance(start, MarkedDict) and start.get("checkpoint") else MarkedDict()
        if key == "backbone":
            found = start
        elif start:
            put(spec, "pretrained", start, "checkpoint")
        for name, value in spec.items():
            found = _drop_init(value, notes, name) or found
        if "backbone_cfg" in spec:
            spec.pop("pretrained", None)
    return found
