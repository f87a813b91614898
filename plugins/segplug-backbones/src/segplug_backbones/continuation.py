"""From a checkpoint of MMSegmentation to one that a run resumes: its weights, optimiser and iteration."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segkernel import checkpoint
from segkernel.config import Config
from segkernel.errors import CheckpointError
from segkernel.weights import load_into
from segplug_backbones.weight_formats.layouts import SOURCE

if TYPE_CHECKING:
    from segkernel.runner import Runner

_SETTINGS = {"momentum", "dampening", "nesterov", "betas", "alpha", "rho", "centered"}
"""Settings that tell optimisers apart; torch's versions differ in others."""


def write_continuation(source: str | Path, config: Config, out: Path) -> str:
    """Write a checkpoint for ``seg-kernel run CONFIG --resume OUT``; return what it holds, in one line.

    Random numbers and the order of the samples start anew, at the position that the iterations give.

    Args:
        source: A checkpoint of a run of MMSegmentation with its optimiser.
        config: The config of the run that continues it.
        out: The file to write.

    Raises:
        CheckpointError: When the weights do not fit completely, or the optimiser is another one.
    """
    from segkernel.experiment import make_runner

    content = checkpoint.load(source)
    if "position" in content:
        raise CheckpointError(f"{source}: is a checkpoint of a run here\n    seg-kernel run CONFIG --resume {source}")
    batches = content["meta"].get("iter")
    if not isinstance(batches, int) or not isinstance(content.get("optimizer"), Mapping):
        raise _refused(source, "it holds no iteration (meta.iter) and optimiser, as a checkpoint of a run does")
    iteration = batches // _accumulated(content["meta"])
    with tempfile.TemporaryDirectory() as folder:
        run = make_runner(config, folder, pretrained=False)
        run.work_dir = Path(folder)
        trained = {**content, "state_dict": content.get(SOURCE, content["state_dict"])}
        _, report = load_into(run.model, trained, "strict", load=run.engine.load_model_state)
        if report.format:
            raise _refused(source, f"its weights are converted from {report.format}, the optimiser's cannot be")
        try:
            count = _take_over(run, content, list(trained["state_dict"]))
        except (ValueError, TypeError) as error:  # TypeError: of what a damaged or forged file holds
            raise _refused(source, str(error)) from error
        run.iteration, run.position = iteration, iteration * run.batch_size
        run.save(out)
        run.close()
    if SOURCE in content:
        _add_average(out, content)
    return f"iteration {iteration} of {run.max_iterations}, {type(run.optimizer).__name__} with {count} states"


def _accumulated(meta: Mapping[str, Any]) -> int:
    """Return the batches of an optimiser step: an iteration there is a batch, here a step."""
    found = re.search(r"(?:accumulative_counts|cumulative_iters)=([1-9]\d{0,5})\b", _config_text(meta))
    return int(found[1]) if found else 1


def _config_text(meta: Mapping[str, Any]) -> str:
    return str(meta.get("cfg") or meta.get("config") or "")


def _refused(source: str | Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{source}: cannot be resumed: {reason}\n    start from its weights only: load_from: {source}"
    )


def _take_over(run: Runner, content: Mapping[str, Any], names: list[str]) -> int:
    """Load the optimiser's state of a file into that of a run; return the number of parameters with a state.

    Raises:
        ValueError: When it is another optimiser or has other parameters.
    """
    if run.optimizer is None:
        raise ValueError("the config has no optimizer (optim.optimizer)")
    theirs = content["optimizer"]
    _check_same(run.optimizer, theirs, content["meta"])
    parameters = dict(run.model.named_parameters())
    numbers = _numbers(theirs["param_groups"], [name for name in names if name in parameters])
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if lacking := sorted(trained - numbers.keys()) or sorted(numbers.keys() - parameters.keys()):
        raise ValueError(f"its optimiser and the model differ in the parameter {lacking[0]}")
    states = {name: theirs["state"].get(number) for name, number in numbers.items()}
    state_of = {id(parameters[name]): state for name, state in states.items() if state}
    own = run.optimizer.state_dict()
    ids = [id(each) for group in run.optimizer.param_groups for each in group["params"]]
    own["state"] = {number: state_of[key] for number, key in enumerate(ids) if key in state_of}
    for name, state in states.items():
        for key, value in (state or {}).items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameters[name].shape:
                raise ValueError(f"{key} of {name} has the shape {tuple(value.shape)}")
    run.engine.load_optimizer_state(own)
    return len(own["state"])


def _numbers(groups: list[Mapping[str, Any]], order: list[str]) -> dict[str, Any]:
    """Return the number of each parameter in an optimiser's state.

    MMSegmentation's optimisers have all parameters, in the order of the model, in one group or in a group each; with
    layer-wise rates, their groups hold the names.

    Args:
        groups: The parameter groups.
        order: Names of the parameters in the order of the model.

    Raises:
        ValueError: The names are not known.
    """
    numbers = [number for group in groups for number in group["params"]]
    if all("param_names" in group for group in groups):
        order = [name for group in groups for name in group["param_names"]]
    elif len(groups) not in (1, len(numbers)):
        raise ValueError(
            f"its optimiser has {len(numbers)} parameters in {len(groups)} groups without their names; known are one "
            "group, or one for each parameter"
        )
    if len(order) != len(numbers):
        raise ValueError(f"its optimiser has {len(numbers)} parameters, the model has {len(order)}")
    return dict(zip(order, numbers))


def _check_same(own: torch.optim.Optimizer, theirs: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Check that an optimiser is that of the file, by its name in the file's config, and by its settings."""
    groups = theirs.get("param_groups")
    if not isinstance(groups, list) or not isinstance(theirs.get("state"), Mapping):
        raise ValueError("it holds several optimisers, or one without groups of parameters")
    named = [
        name
        for name in re.findall(r"type='(\w+)'", _config_text(meta))
        if isinstance(getattr(torch.optim, name, None), type)
    ]
    kind = type(own).__name__
    if named and kind not in named:
        raise ValueError(f"its optimiser is {named[0]}, the config's is {kind}")
    settings = _SETTINGS & set().union(*groups)
    if settings != _SETTINGS & own.defaults.keys():
        raise ValueError(f"its optimiser has the settings {', '.join(sorted(settings)) or 'of none'}, not {kind}'s")


def _add_average(path: Path, content: Mapping[str, Any]) -> None:
    """Add the averaged weights, as EMAHook of segplug-training saves them."""
    state = checkpoint.load(path)
    state[SOURCE], state["state_dict"] = state["state_dict"], content["state_dict"]
    if "EMAHook" in state["hooks"]:
        state["hooks"]["EMAHook"] = {"steps": state["iteration"]}
    checkpoint.save(path, {key: value for key, value in state.items() if key != "path"})
