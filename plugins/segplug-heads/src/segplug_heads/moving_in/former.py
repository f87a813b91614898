"""A config of MMSegmentation 0.x in the form of 1.x, so that there is one translation."""

from __future__ import annotations

from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList, Place
from segplug_heads.moving_in.former_data import modernize_data
from segplug_heads.moving_in.marking import as_list, kind_of, made, put, section, where
from segplug_heads.moving_in.notes import Notes

_POLICIES = {"poly": "PolyLR", "step": "MultiStepLR", "CosineAnnealing": "CosineAnnealingLR", "exp": "ExponentialLR"}
_LOGGERS = {
    "TensorboardLoggerHook": "TensorboardVisBackend",
    "WandbLoggerHook": "WandbVisBackend",
    "MMSegWandbHook": "WandbVisBackend",
    "MlflowLoggerHook": "MLflowVisBackend",
}
_GIVEN = ("model", "load_from", "custom_hooks", "custom_imports", "work_dir", "find_unused_parameters")


def modernize(config: MarkedDict, notes: Notes) -> MarkedDict:
    """Return the sections of 1.x; what has none is noted."""
    result = MarkedDict(place=config.place)
    for key in _GIVEN:
        put(result, key, config)
    _old_model(config, result)
    if section(config, "data"):
        modernize_data(config["data"], result, notes)
    if section(config, "optimizer"):
        result["optim_wrapper"] = _wrapper(config, notes)
    length = _length(config)
    if length:
        result["train_cfg"] = length
    schedules = _schedules(config, length, notes)
    if schedules is not None:
        result["param_scheduler"] = schedules
    _evaluation(config, result, notes)
    _environment(config, result, notes)
    return result


def _old_model(config: MarkedDict, result: MarkedDict) -> None:
    """Take ``train_cfg`` and ``test_cfg`` from beside the model, where the first versions had them."""
    for key in ("train_cfg", "test_cfg"):
        model = section(result, "model").copy()
        if model and key in config and key not in model:
            put(model, key, config)
            result["model"] = model


def _wrapper(config: MarkedDict, notes: Notes) -> MarkedDict:
    spec, options = config["optimizer"], section(config, "optimizer_config")
    has_amp = "Fp16" in kind_of(options) or isinstance(config.get("fp16"), MarkedDict)
    result = made(
        where(config, "optimizer"),
        type="AmpOptimWrapper" if has_amp else "OptimWrapper",
        optimizer=spec.without("paramwise_cfg", "constructor"),
    )
    put(result, "paramwise_cfg", spec)
    put(result, "constructor", spec)
    put(result, "clip_grad", options, "grad_clip")
    put(result, "accumulative_counts", options, "cumulative_iters")
    scales = options if "loss_scale" in options else section(config, "fp16")
    if has_amp and isinstance(scales.get("loss_scale"), (int, float)):
        put(result, "loss_scale", scales)
    notes.rest(options, ("grad_clip", "cumulative_iters", "loss_scale", "distributed"), "optimizer_config")
    return result


def _length(config: MarkedDict) -> MarkedDict:
    runner, evaluation = section(config, "runner"), section(config, "evaluation")
    result = MarkedDict(place=where(config, "runner"))
    if runner:
        put(result, "max_iters", runner)
        put(result, "max_epochs", runner)
    elif config.get("total_iters"):
        put(result, "max_iters", config, "total_iters")
    elif config.get("total_epochs"):
        put(result, "max_epochs", config, "total_epochs")
    if result:
        put(result, "val_interval", evaluation, "interval")
        if evaluation.get("start"):
            put(result, "val_begin", evaluation, "start")
    return result


def _schedules(config: MarkedDict, length: MarkedDict, notes: Notes) -> MarkedList | None:
    """Return the warm-up and the schedule; after a warm-up, 1.x counts the schedule from its end."""
    spec = section(config, "lr_config")
    if not spec:
        return None
    place, by_epoch = spec.place or where(config, "lr_config"), bool(spec.get("by_epoch", True))
    end = length.get("max_epochs" if by_epoch else "max_iters")  # None is the end of the run
    begin = spec.get("warmup_iters", 0) if spec.get("warmup") and not by_epoch else 0
    result = MarkedList()
    if spec.get("warmup"):
        result.append(_warmup(spec, place, notes))
    kind = str(spec.get("policy", ""))
    if kind in _POLICIES:
        schedule = made(place, type=_POLICIES[kind], begin=begin, by_epoch=by_epoch)
        for new, old in {"power": "power", "eta_min": "min_lr", "gamma": "gamma", "milestones": "step"}.items():
            put(schedule, new, spec, old)
        if kind == "poly":
            schedule.setdefault("eta_min", 0.0)
            schedule.setdefault("power", 1.0)
        if end and kind in ("poly", "CosineAnnealing"):
            schedule["end"] = end
        if kind == "CosineAnnealing" and isinstance(end, int) and isinstance(begin, int):
            schedule["T_max"] = end - begin
        if kind == "step" and isinstance(schedule.get("milestones"), int):
            schedule["type"] = "StepLR"
            schedule["step_size"] = schedule.pop("milestones")
        result.append(schedule)
    elif kind not in ("", "fixed"):
        notes.lost(spec, "policy", "this schedule has no equivalent: schedule.lr lists schedules", "lr_config")
    known = ("policy", "warmup", "warmup_iters", "warmup_ratio", "by_epoch", "power", "min_lr", "gamma", "step")
    notes.rest(spec, known, "lr_config")
    return result


def _warmup(spec: MarkedDict, place: Place | None, notes: Notes) -> MarkedDict:
    if spec["warmup"] != "linear":
        notes.lost(spec, "warmup", "is linear here", "lr_config")
    if spec.get("by_epoch", True):
        notes.lost(spec, "warmup_iters", "the schedule after it counts epochs from the first", "lr_config")
    ratio, end = spec.get("warmup_ratio", 0.1), spec.get("warmup_iters", 0)
    return made(place, type="LinearLR", start_factor=ratio, by_epoch=False, begin=0, end=end)


def _evaluation(config: MarkedDict, result: MarkedDict, notes: Notes) -> None:
    spec = section(config, "evaluation")
    if spec or "test_dataloader" in result:
        names = as_list(spec.get("metric", "mIoU"))
        place = where(config, "evaluation")
        if names == ["cityscapes"]:
            result["val_evaluator"] = made(place, type="CityscapesMetric")
        else:
            kept = MarkedList([name for name in names if name in ("mIoU", "mDice", "mFscore")])
            if len(kept) < len(names):
                notes.lost(spec, "metric", "IoUMetric has mIoU, mDice and mFscore", "evaluation")
            result["val_evaluator"] = made(place, type="IoUMetric", iou_metrics=kept or MarkedList(["mIoU"]))
        known = ("interval", "start", "metric", "pre_eval", "by_epoch", "save_best", "gpu_collect", "rule")
        notes.rest(spec, (*known, "efficient_test"), "evaluation")


def _environment(config: MarkedDict, result: MarkedDict, notes: Notes) -> None:
    """Add default hooks, backends, seed, and what to resume."""
    hooks = MarkedDict()
    if saving := section(config, "checkpoint_config"):
        hooks["checkpoint"] = saving.copy()
    evaluation = section(config, "evaluation")
    if evaluation.get("save_best"):
        put(hooks.setdefault("checkpoint", MarkedDict()), "save_best", evaluation)
    if logs := section(config, "log_config"):
        hooks["logger"] = made(logs.place, interval=logs.get("interval", 10))
        result["vis_backends"] = _backends(logs, notes)
    if hooks:
        result["default_hooks"] = hooks
    if isinstance(config.get("seed"), int):
        result["randomness"] = made(where(config, "seed"), seed=config["seed"])
        put(result["randomness"], "deterministic", config)
    if config.get("resume_from"):
        put(result, "resume", config, "resume_from")
    flow: Any = config.get("workflow")
    if flow and flow != [["train", 1]]:
        notes.lost(config, "workflow", "a run validates every schedule.val_interval, with evaluate.loss also the loss")
    if config.get("momentum_config"):
        notes.lost(config, "momentum_config", "schedules such as OneCycleLR set the momentum, too")


def _backends(logs: MarkedDict, notes: Notes) -> MarkedList:
    found = MarkedList()
    for hook in logs.get("hooks") or ():
        kind = kind_of(hook)
        if kind in _LOGGERS:
            backend = made(where(hook), type=_LOGGERS[kind])
            put(backend, "init_kwargs", hook)
            found.append(backend)
        elif kind != "TextLoggerHook":
            notes.say(kind, "records go to TensorBoardHook, WandbHook or MLflowHook", where(hook))
    return found
