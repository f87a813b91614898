"""Optimiser, schedule and precision of MMSegmentation 1.x as our sections ``optim``, ``schedule`` and ``engine``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList
from segplug_heads.moving_in.marking import as_list, kind_of, made, plain, put, section, where
from segplug_heads.moving_in.names import translate
from segplug_heads.moving_in.notes import Notes

DEVICES = {
    "cityscapes": 4,
    "voc": 4,
    "fpn_poolformer_s36_8x4_512x512_40k_ade20k": 8,
    "san-vit-b16_coco-stuff164k-640x640": 2,
    "san-vit-l14_coco-stuff164k-640x640": 4,
    "san-vit-b16_pascal_context-640x640": 8,
    "san-vit-l14_pascal_context-640x640": 8,
    "san-vit-b16_voc12aug-640x640": 8,
    "san-vit-l14_voc12aug-640x640": 8,
}
"""Number of devices of the published runs whose name does not contain it (``4xb2``)."""

_CONSTRUCTORS = (
    *("DefaultOptimWrapperConstructor", "DefaultOptimizerConstructor"),
    *("LayerDecayOptimizerConstructor", "LearningRateDecayOptimizerConstructor"),
)
_PARAMWISE = (
    *("custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult", "flat_decay_mult"),
    *("layer_decay", "type"),
)
"""Rules of optim.paramwise."""

_WRAPPER = (
    *("optimizer", "clip_grad", "paramwise_cfg", "constructor", "loss_scale", "accumulative_counts", "dtype"),
    "use_fsdp",
)

_ITERATIONS = ("begin", "end", "T_max", "milestones", "periods", "step_size", "total_steps")
"""Arguments of schedules that count iterations."""


def devices_of(name: str) -> int | None:
    """Return the number of devices of a published run: 4 of ``4xb2``, 8 of 0.x's ``8x2``; None without one."""
    found = re.findall(r"_(\d+)x(?:b\d+|\d(?=_))", name)
    return DEVICES.get(name) or (int(found[-1]) if found else None)


def steps_of(config: Mapping[str, Any]) -> int:
    """Return the batches of an optimiser step: MMEngine's iteration is a batch, ours an optimiser step."""
    steps = section(config, "optim_wrapper").get("accumulative_counts", 1)
    return steps if isinstance(steps, int) and steps > 0 else 1


def count_steps(spec: MarkedDict, keys: Iterable[str], steps: int) -> None:
    """Replace numbers of batches, or lists of them, by those of optimiser steps, rounded up."""
    for key in keys:
        value = spec.get(key)
        if isinstance(value, list):
            spec[key] = MarkedList([-(-item // steps) if isinstance(item, int) else item for item in value])
        elif isinstance(value, int):
            spec[key] = -(-value // steps)


def optim_section(config: MarkedDict, devices: int, notes: Notes) -> MarkedDict:
    """Return optimiser, batch size over all devices, factors per parameter, and clipping."""
    result, wrapper = MarkedDict(), section(config, "optim_wrapper")
    notes.rest(wrapper, _WRAPPER, "optim_wrapper")
    constructor = wrapper.get("constructor")
    if constructor is not None and kind_of(constructor) not in _CONSTRUCTORS:
        notes.lost(wrapper, "constructor", "parameter groups are optim.paramwise; a plugin can bring others")
    if section(wrapper, "optimizer"):
        put(result, "optimizer", MarkedDict({"optimizer": translate(wrapper["optimizer"])}, places=wrapper.places))
    loader = section(config, "train_dataloader")
    if isinstance(loader.get("batch_size"), int):
        put(result, "batch_size", loader)
        result["batch_size"] *= devices * steps_of(config)
    if wrapper.get("clip_grad"):
        result["clip_grad"] = plain(wrapper["clip_grad"])
    paramwise = paramwise_section(wrapper.get("paramwise_cfg"))
    if paramwise:
        for key in [key for key in paramwise if key not in _PARAMWISE]:
            notes.lost(paramwise, key, "optim.paramwise has no such rule", "optim_wrapper.paramwise_cfg")
            del paramwise[key]
    if paramwise:
        result["paramwise"] = paramwise
    scale = section(config, "auto_scale_lr")
    if scale.get("enable"):
        put(result, "base_batch_size", scale)
    return result


def paramwise_section(spec: Any) -> MarkedDict | None:
    """Return factors per parameter, without ``wd_mult``, which nothing reads, and with one spelling of layer decay."""
    if not isinstance(spec, dict):
        return None
    result: MarkedDict = plain(spec)
    rate = result.pop("decay_rate", result.pop("layer_decay_rate", None))
    if rate is not None:
        stages = {"stage_wise": True} if result.pop("decay_type", "layer_wise") == "stage_wise" else {}
        result["layer_decay"] = made(where(spec), rate=rate, num_layers=result.pop("num_layers", None), **stages)
    rules = result.pop("custom_keys", None)
    if isinstance(rules, dict):
        rules = MarkedDict({name: rule for name, rule in rules.items() if set(rule) != {"wd_mult"}}, place=where(rules))
        if rules:
            result["custom_keys"] = rules
    return result or None


def schedule_section(config: MarkedDict, notes: Notes) -> MarkedDict:
    """Return the length of training, the distance of validations, and the learning rate."""
    result, loop, steps = MarkedDict(), section(config, "train_cfg"), steps_of(config)
    notes.rest(loop, ("max_iters", "max_epochs", "val_interval", "val_begin", "by_epoch"), "train_cfg")
    is_epochs = "max_iters" not in loop and "max_epochs" in loop
    put(result, "iterations", loop, "max_iters")
    if is_epochs:
        put(result, "epochs", loop, "max_epochs")
    put(result, "val_interval", loop)
    if loop.get("val_begin"):
        put(result, "val_begin", loop)
    if not is_epochs:
        count_steps(result, ("iterations", "val_interval", "val_begin"), steps)
    schedules = config.get("param_scheduler")
    if isinstance(schedules, (list, MarkedDict)):
        many = [spec for spec in as_list(schedules) if isinstance(spec, MarkedDict)]
        result["lr"] = MarkedList([_schedule(spec, steps, result.get("iterations"), notes) for spec in many])
    return result


def _schedule(spec: MarkedDict, steps: int, iterations: Any, notes: Notes) -> MarkedDict:
    """Return a schedule without the values that are the default: the whole run, in iterations."""
    result: MarkedDict = translate(spec)
    by_epoch = result.get("by_epoch", True)
    if "by_epoch" not in result:
        result["by_epoch"] = True  # their default
    if result.pop("convert_to_iter_based", False):
        notes.lost(spec, "convert_to_iter_based", "rates change with every epoch; by_epoch: false counts iterations")
    if not by_epoch:
        count_steps(result, _ITERATIONS, steps)
        if kind_of(result) == "ExponentialLR" and steps > 1 and isinstance(result.get("gamma"), float):
            result["gamma"] **= steps
    usual = {"by_epoch": False, "begin": 0, "end": iterations}
    for key in [key for key, value in usual.items() if key in result and result[key] == value and not by_epoch]:
        del result[key]
    return result


def engine_section(config: MarkedDict, notes: Notes) -> MarkedDict:
    """Return the precision, and what the environment sets: with AMP float16, and the loss scale if it is fixed."""
    result, wrapper = MarkedDict(), section(config, "optim_wrapper")
    if kind_of(wrapper) == "AmpOptimWrapper":
        put(result, "amp", wrapper, "type")
        result["amp"] = wrapper.get("dtype") or "float16"
        if isinstance(wrapper.get("loss_scale", "dynamic"), (int, float)):
            put(result, "loss_scale", wrapper)
        elif isinstance(wrapper.get("loss_scale"), MarkedDict):
            notes.lost(wrapper, "loss_scale", "the scale is dynamic, or a number", "optim_wrapper")
    if config.get("find_unused_parameters"):
        put(result, "find_unused_parameters", config)
    randomness = section(config, "randomness")
    if randomness.get("deterministic"):
        put(result, "deterministic", randomness)
        result["deterministic"] = "warn"
    if section(config, "compile") or config.get("compile") is True:
        put(result, "compile", config)
        result["compile"] = True
    return result
