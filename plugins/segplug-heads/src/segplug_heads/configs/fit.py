"""Whether the parts of a config fit together: all but its data is built, the model without memory for its weights.

problems = check_fit(load_config("my.yaml"))      # as `seg-kernel config check` does
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from segkernel import LocalEngine, Runner
from segkernel.catalog import Catalog
from segkernel.config import Config
from segkernel.config.marks import MarkedDict, place_of
from segkernel.config.paths import parse_path, step_in
from segkernel.errors import ConfigError, Problem, UsageError
from segkernel.experiment import SETS, check_classes, make_runner
from segkernel.interfaces.model import Segmentor
from segkernel.loading import SizeLimit, catalog_of, labels_of

_MOST_TENSORS = 1 << 13
_OF_SIZES = ("channel", "dim", "elements", "shape", "size")
"""Words in errors that come from sizes; other errors come from operations that need values, or a device."""


def check_fit(config: Config) -> list[Problem]:
    """Return the problems, except those of the data, that would stop a run at its start; arguments must be valid.

    The model is built on torch's device ``meta``, together with optimiser, schedules, transforms, metrics and hooks;
    its classes are compared with those of the data sets, which are not opened, and it processes an image.
    """
    if not config.get("model"):  # unfinished
        return []
    outline, data = copy.copy(config), config.get("data") or MarkedDict()
    engine = {"type": LocalEngine, "device": "meta"}
    outline.update(engine=engine, load_from=None, data=data.without(*SETS, "sampler"))
    try:
        with torch.device("meta"), _CountLimit(1 << 32):  # another machine may run it
            runner = make_runner(outline, pretrained=False)
            sets = {name: _outline_of(data.get(name), runner.model, catalog_of(config)) for name in SETS}
            check_classes(runner.model, sets, config)
        return _check_device(config) + _check_image(runner, config)
    except ConfigError as error:
        return [_placed(problem, config) for problem in error.problems]
    except (UsageError, RuntimeError) as error:
        return [Problem(str(error), place=config.source)]


def _placed(problem: Problem, config: Config) -> Problem:
    """Return a problem at the line of its own key, if the config has it, instead of its component's."""
    node: Any = config.data
    place = problem.place
    with suppress(KeyError):
        for step in parse_path(problem.path) or ():
            place = place_of(node, step_in(node, step)) or place
            node = node[step_in(node, step)]
    return replace(problem, place=place)


class _CountLimit(SizeLimit):
    """Also refuses a model of so many tensors that to make them takes minutes."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.empty
        if self.count > _MOST_TENSORS:
            raise UsageError(f"the model is too large: it has more than {_MOST_TENSORS:,} parameters and buffers")
        return super().__torch_function__(func, types, args, kwargs)


def _outline_of(spec: Any, model: Segmentor, catalog: Catalog) -> Any:
    """Return something with a data set's name and classes, and labels for the model's task; None for unknown ones."""
    labels = labels_of(spec, catalog) if spec else None
    known = {"classes": labels.classes, "labels": model.outputs.get("seg")} if labels else {}
    return type(str(spec["type"]), (), known)() if known else None


def _check_device(config: Config) -> list[Problem]:
    """Return why ``engine.device`` is not a valid device; whether it exists depends on the machine that trains."""
    section = config.get("engine") or MarkedDict()
    try:
        torch.device("cpu" if (name := section.get("device", "auto")) == "auto" else name)
    except RuntimeError:
        hint = "auto, cpu, cuda, cuda:1 or mps"
        return [Problem(f"{name!r} is not a device", "engine.device", place_of(section, "device"), hint)]
    return []


def _check_image(runner: Runner, config: Config) -> list[Problem]:
    """Return the part that cannot process its input, if any, for an image with the channels of ``data.preprocess``."""
    channels, size = runner.preprocessor.mean.numel(), config.get("data", {}).get("crop_size") or (512, 512)
    model, busy, done = runner.model.eval(), list[tuple[str, Any]](), dict[str, Any]()
    parts = dict(_parts(model))
    for name, part in parts.items():
        part.register_forward_pre_hook(
            lambda _, inputs, named, name=name: busy.append((name, next(iter((*inputs, *named.values())), None))),
            with_kwargs=True,
        )
        part.register_forward_hook(lambda *_: done.update([busy.pop()]))
    try:
        with torch.no_grad(), torch.device("meta"):
            model(torch.empty(1, channels, *size))
            for name in [name for name in parts if name.startswith("auxiliary_head") and "decode_head" in done]:
                parts[name](done["decode_head"])
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if "meta" not in reason and any(word in reason.lower() for word in _OF_SIZES):
            return [_misfit(*busy[0], config, reason) if busy else _no_model_of(channels, config, reason)]
    return []


def _parts(model: Segmentor) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts that images go through, by their key in the config."""
    for name, part in model.named_children():
        if isinstance(part, nn.ModuleList):
            yield from ((f"{name}[{index}]", each) for index, each in enumerate(part))
        else:
            yield name, part


def _no_model_of(channels: int, config: Config, reason: str) -> Problem:
    message = f"the model failed on an image of {channels} channels: {reason}"
    return Problem(message, "model", place_of(config.data, "model"))


def _misfit(name: str, given: Any, config: Config, reason: str) -> Problem:
    """Return the problem of a part that cannot process its input, images or feature maps."""
    node: Any = config["model"]
    with suppress(LookupError, TypeError):  # a model may call its parts otherwise than its arguments
        for step in parse_path(name) or ():
            node = node[step_in(node, step)]
    key, what = (".in_channels", node["in_channels"]) if "in_channels" in node else ("", "it")
    if isinstance(given, torch.Tensor):
        source, hint = f"images of {given.shape[1]} channels", reason
    else:
        source = "the neck" if config["model"].get("neck") and name != "neck" else "the backbone"
        channels = [str(each.shape[1]) for each in given or () if isinstance(each, torch.Tensor)]
        hint = f"its maps have {', '.join(channels)} channels: {reason}"
    problem = Problem(f"{what} does not fit {source}", f"model.{name}{key}", hint=hint)
    return _placed(problem, config)
