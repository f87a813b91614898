"""Comparison of the learning rate and weight decay of every parameter of packaged experiments with the reference."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from golden import Report

from segkernel.config import load_config
from segkernel.loading import make_model
from segplug_training.paramwise import Paramwise

ALLOWED = 1e-9
"""Relative tolerance of learning rates and weight decays."""
FROZEN_LATER = ("fpn_poolformer", "backbone.patch_embed.")
"""Experiments, and their parameters that the reference freezes after creating its optimiser."""
Rates = dict[str, tuple[float, float]]
"""{parameter: (learning rate, weight decay)} of all parameters that are not frozen."""


def check(name: str, expected: Rates) -> Report:
    """Compare the groups of a packaged experiment."""
    report = Report()
    ours = groups_of(name)
    if name.startswith(FROZEN_LATER[0]):
        expected = {key: pair for key, pair in expected.items() if not key.startswith(FROZEN_LATER[1])}
    for kind, names in (("missing", expected.keys() - ours.keys()), ("unexpected", ours.keys() - expected.keys())):
        report.require(not names, f"{len(names)} {kind} parameters: {', '.join(sorted(names)[:4])}")
    for parameter in ours.keys() & expected.keys():
        for kind, value, wanted in zip(("rates", "decays"), ours[parameter], expected[parameter]):
            report.compare(kind, f"{kind[:-1]} of {parameter}", abs(value - wanted), ALLOWED * (wanted or 1.0))
    return report


def groups_of(name: str) -> Rates:
    """Return the rates of the parameter groups of a packaged experiment."""
    config = load_config(name)
    with torch.device("meta"):
        model = make_model(config, pretrained=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spec = config["optim"]["optimizer"]
    groups = Paramwise(**config["optim"].get("paramwise", {}))(model, spec["lr"], spec.get("weight_decay", 0.0))
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def read(path: Path) -> Rates:
    """Return the table of a full case, ``paramgroups_NAME.json``."""
    return {name: (rate, decay) for name, rate, decay in json.loads(path.read_text())["params"]}


def pack(paths: Iterable[Path], target: Path) -> None:
    """Write full cases into one small file, with a line per pair of rate and decay and its parameters."""
    arrays = {path.stem.removeprefix("paramgroups_"): _lines(read(path)) for path in sorted(paths)}
    np.savez_compressed(target, **{name: np.frombuffer(text.encode(), np.uint8) for name, text in arrays.items()})


def unpack(path: Path) -> dict[str, Rates]:
    """Undo `pack`: the tables by the name of the experiment."""
    with np.load(path) as stored:
        return {name: _table(array.tobytes().decode()) for name, array in stored.items()}


def _lines(rates: Rates) -> str:
    groups: Mapping[tuple[float, float], list[str]] = defaultdict(list)
    for name, pair in rates.items():
        groups[pair].append(name)
    return "\n".join(f"{rate!r} {decay!r} {' '.join(names)}" for (rate, decay), names in groups.items())


def _table(text: str) -> Rates:
    rows = (line.split(" ") for line in text.splitlines())
    return {name: (float(rate), float(decay)) for rate, decay, *names in rows for name in names}
