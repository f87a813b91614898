"""Hooks, metrics and the environment of MMSegmentation 1.x as our sections."""

from __future__ import annotations

from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList
from segplug_heads.former_names import OTHER_SCOPES, SAME_SCOPES, former_name
from segplug_heads.moving_in.marking import as_list, kind_of, made, put, section, where
from segplug_heads.moving_in.names import translate
from segplug_heads.moving_in.notes import Notes
from segplug_heads.moving_in.training import count_steps, steps_of

_ALWAYS = (
    *("IterTimerHook", "ParamSchedulerHook", "DistSamplerSeedHook", "RuntimeInfoHook", "SyncBuffersHook"),
    *("LoggerHook", "CheckInvalidLossHook", "SegVisualizationHook", "CheckpointHook"),
)
"""Hooks that every run has here, or that sections of their own replace."""

_USUAL_LOG_INTERVAL = 50
_BACKENDS = {
    "TensorboardVisBackend": "TensorBoardHook",
    "WandbVisBackend": "WandbHook",
    "MLflowVisBackend": "MLflowHook",
}
USUAL_VIEWS = ([0.5, 0.75, 1.0, 1.25, 1.5, 1.75], True)
"""Scales, and whether images are mirrored, of published configs and of ``seg-kernel test --tta``."""

_MOMENTUM = 0.0002  # of EMAHook, the default
_ITERATIONS = {"CheckpointHook": ("interval",), "ProgressHook": ("interval",), "EMAHook": ("interval", "begin_iter")}
"""Arguments of hooks that count iterations."""


def hooks_section(config: MarkedDict, notes: Notes) -> MarkedList:
    """Return the hooks: custom ones, and default ones whose arguments are not the usual ones."""
    result = MarkedList()
    for hook in as_list(config.get("custom_hooks")):
        if not isinstance(hook, MarkedDict):
            continue
        hook = translate(hook)
        priority = hook.pop("priority", None)
        if priority is not None and str(hook.get("type")) in _ALWAYS:
            continue
        result.append(hook)
    defaults = section(config, "default_hooks")
    result += [hook for hook in (_checkpoint(defaults, config, notes), _logger(defaults), _pictures(defaults)) if hook]
    for key, hook in defaults.items():
        if key not in ("timer", "logger", "param_scheduler", "checkpoint", "sampler_seed", "visualization"):
            notes.lost(defaults, key, former_name(kind_of(hook)) or "custom hooks are hooks: [...]", "default_hooks")
    steps = steps_of(config)
    for hook in result:
        kind, momentum = str(hook.get("type")), hook.get("momentum", _MOMENTUM)
        if kind == "EMAHook" and steps > 1 and hook.get("interval", 1) == 1 and isinstance(momentum, float):
            hook["momentum"] = round(1 - (1 - momentum) ** steps, 12)  # the average moves with every batch there
        count_steps(hook, _ITERATIONS.get(kind, ()), steps)
    return MarkedList([*result, *_trackers(config, notes)])


def _checkpoint(defaults: MarkedDict, config: MarkedDict, notes: Notes) -> MarkedDict | None:
    """Return the hook that saves; an interval equal to that of validation is the default."""
    spec = section(defaults, "checkpoint")
    result = MarkedDict(place=spec.place)
    usual = (None, section(config, "train_cfg").get("val_interval"))
    if not spec.get("by_epoch", True) and spec.get("interval") not in usual:
        put(result, "interval", spec)
    keep = spec.get("max_keep_ckpts")
    if isinstance(keep, int) and keep > 0:
        put(result, "keep", spec, "max_keep_ckpts")
    best = spec.get("save_best")
    if best and best not in ("auto", "mIoU"):
        put(result, "best", spec, "save_best")
    known = ("interval", "by_epoch", "max_keep_ckpts", "save_best", "save_optimizer", "save_last", "published_keys")
    notes.rest(spec, (*known, "rule", "greater_keys", "priority"), "default_hooks.checkpoint")
    return MarkedDict({"type": "CheckpointHook", **result}, places=result.places, place=spec.place) if result else None


def _logger(defaults: MarkedDict) -> MarkedDict | None:
    spec = section(defaults, "logger")
    if spec.get("interval", 10) in (10, _USUAL_LOG_INTERVAL):
        return None
    result = made(spec.place, type="ProgressHook")
    put(result, "interval", spec)
    return result


def _pictures(defaults: MarkedDict) -> MarkedDict | None:
    spec = section(defaults, "visualization")
    if not spec.get("draw"):
        return None
    result = made(spec.place, type="PicturesHook", validation=True)
    if isinstance(spec.get("interval"), int):
        put(result, "interval", spec)
    return result


def _trackers(config: MarkedDict, notes: Notes) -> list[MarkedDict]:
    """Return the hooks for the backends of the visualiser; pictures on the disk are PicturesHook."""
    backends = section(config, "visualizer").get("vis_backends")
    found: list[MarkedDict] = []
    for backend in as_list(config.get("vis_backends") if backends is None else backends):
        kind = kind_of(backend)
        if kind in _BACKENDS and isinstance(backend, MarkedDict):
            hook = made(where(backend), type=_BACKENDS[kind])
            for key in ("project", "entity", "name", "mode") if kind == "WandbVisBackend" else ():
                put(hook, key, section(backend, "init_kwargs"))
            found.append(hook)
        elif kind != "LocalVisBackend":
            notes.say(f"vis_backends {kind}", "records go to TensorBoardHook, WandbHook or MLflowHook", where(backend))
    return found


def evaluate_section(config: MarkedDict, notes: Notes) -> MarkedDict:
    """Return the metrics of validation, which tests have, too."""
    result = MarkedDict()
    evaluator = config.get("val_evaluator", config.get("test_evaluator"))
    if isinstance(evaluator, (list, MarkedDict)):
        place = where(config, "val_evaluator")
        metrics = MarkedList([_metric(spec, notes) for spec in as_list(evaluator)], place=place)
        result = made(place, metrics=metrics)
    test = config.get("test_evaluator")
    if isinstance(test, MarkedDict) and test.get("format_only"):
        put(result, "format_only", test)
    elif test is not None and evaluator is not None and translate(test) != translate(evaluator):
        notes.lost(config, "test_evaluator", "tests have the metrics of validation")
    return result


def _metric(spec: Any, notes: Notes) -> Any:
    if not isinstance(spec, MarkedDict):
        return spec
    result: MarkedDict = translate(spec)
    for key in ("format_only", "collect_device", "backend_args"):
        result.pop(key, None)
    if "output_dir" in result:
        notes.lost(spec, "output_dir", "predictions are written by seg-kernel predict", "val_evaluator")
        del result["output_dir"]
    return result


def environment(config: MarkedDict, notes: Notes) -> MarkedDict:
    """Return the single values: weights to start from, seed, run directory."""
    result = MarkedDict()
    if config.get("load_from"):
        put(result, "load_from", config)
    randomness = section(config, "randomness")
    if isinstance(randomness.get("seed"), int):
        put(result, "seed", randomness)
    if config.get("work_dir"):
        put(result, "work_dir", config)
    _views(config, notes)
    if config.get("resume"):
        notes.lost(config, "resume", former_name("resume"))
    modules = _imported_modules(config.get("custom_imports"))
    if any(module.partition(".")[0] not in (*SAME_SCOPES, *OTHER_SCOPES) for module in modules):
        notes.lost(config, "custom_imports", f"{', '.join(modules)}: {former_name('custom_imports')}")
    for key in ("model_wrapper_cfg", "runner_type", "activation_checkpointing"):
        if config.get(key):
            notes.lost(config, key, former_name(kind_of(config[key])) or "there is no equivalent here")
    return result


def _views(config: MarkedDict, notes: Notes) -> None:
    """Note the views of test-time augmentation, unless they are the usual ones, which ``--tta`` has here, too."""
    for augment in as_list(config.get("tta_pipeline")):
        groups = augment.get("transforms") if isinstance(augment, MarkedDict) else None
        steps = [step for group in as_list(groups) for step in as_list(group) if isinstance(step, MarkedDict)]
        scales = [step["scale_factor"] for step in steps if "scale_factor" in step]
        flip = any(kind_of(step) == "RandomFlip" and step.get("prob") for step in steps)
        if scales and (scales, flip) != USUAL_VIEWS:
            notes.views(kind_of(augment), scales, flip, where(augment))


def _imported_modules(spec: Any) -> list[str]:
    names = spec.get("imports") if isinstance(spec, dict) else spec
    return [str(name) for name in as_list(names)]
