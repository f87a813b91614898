"""Adapt a packaged model to other data: the classes of its head, the length of its schedule, the sizes of its crops.

changes = model_changes(load_config("segformer_mit-b0_8xb2-160k_ade20k-512x512"), recipe, classes=3)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segkernel.catalog import Catalog
from segkernel.config import Config, load_config
from segkernel.errors import SegKernelError, UsageError
from segplug_datasets.own_data.recipe import Recipe, Size
from segplug_datasets.own_data.weights import find_weights

STARTER = "starter"
PRETRAINED = "segformer_mit-b0_8xb2-160k_ade20k-512x512"
"""A small model with published weights, proposed in place of one without."""
FOUNDATION = "starter-dinov2"
"""A recipe for few images, proposed in place of one without weights if its own are on this machine."""

DICE = "SoftDiceLoss"
CLASSES = "${data.num_classes}"
CROP = "${data.crop_size}"
WARM_UP = 0.05
"""Least share of the run, if the published one has a warm-up: its share of a long run is too short for a short run."""

_LENGTHS = ("begin", "end", "T_max", "step_size", "period", "warmup_iters")
_LENGTH_LISTS = ("milestones", "periods")
_FLIP = {"type": "RandomFlip", "prob": 0.5}


@dataclass
class Changes:
    """Sections that override the packaged config, with reasons by the path of the key."""

    sections: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def load_base(name: str) -> Config:
    """Return a packaged config.

    Raises:
        ConfigError: When no packaged config has this name.
        UsageError: When it does not predict classes of pixels.
    """
    base = load_config(name)
    kinds = {str(metric.get("type")) for metric in (base.get("evaluate") or {}).get("metrics") or ()}
    if "DepthMetric" in kinds:
        raise UsageError(f"{name} predicts depth, not classes: choose another with seg-kernel models")
    if not base.get("model"):
        raise UsageError(f"{name} has no model: choose one with seg-kernel models")
    return base


def fixed_crop(base: Config) -> Size | None:
    """Return the crop size that a model is built for; None if it follows ``data.crop_size``."""
    crop = (base.get("data") or {}).get("crop_size")
    if not crop or "img_size" not in (base.get("model") or {}).get("backbone", {}):
        return None
    return None if _raw(base, "model", "backbone", "img_size") == CROP else (crop[0], crop[1])


def _raw(base: Config, *keys: str) -> Any:
    value: Any = base.raw
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


# ---------------------------------------------------------------- the model


def model_changes(base: Config, recipe: Recipe, classes: int, rare: Sequence[str] = ()) -> Changes:
    """Return the changes of the model: its classes, weights, loss and windows.

    Args:
        base: The packaged config.
        recipe: The chosen sizes.
        classes: Number of classes.
        rare: Classes with few pixels, which cross-entropy alone may not learn.
    """
    changes = Changes()
    count = (base.get("data") or {}).get("num_classes")
    model = _adapted(base.raw.get("model") or {}, count, classes)
    if model:
        changes.why["model"] = "adapted from the classes of the published data"
    _weights(base, model, changes)
    if rare and base.name != STARTER:
        _loss(base, model, rare, changes)
    _windows(base, recipe, model, changes)
    if model:
        changes.sections["model"] = model
    return changes


def _adapted(value: Any, count: int | None, classes: int) -> dict[str, Any]:
    """Return the entries of a mapping that depend on the published number of classes, with the new number."""
    changed: dict[str, Any] = {}
    for key, one in value.items():
        if key == "num_classes" and one == count and one != CLASSES:
            changed[key] = CLASSES
        elif key == "class_weight" and isinstance(one, list):
            new = _class_weight(one, count, classes)
            changed.update({key: new} if new else {f"~{key}": None})
        elif isinstance(one, Mapping):
            inner = _adapted(one, count, classes)
            changed.update({key: inner} if inner else {})
        elif isinstance(one, list) and any(
            isinstance(item, Mapping) and _adapted(item, count, classes) for item in one
        ):
            changed[key] = [_rewritten(item, count, classes) for item in one]
    return changed


def _rewritten(item: Any, count: int | None, classes: int) -> Any:
    """Return an entry of a list in full, since lists are replaced, not merged."""
    if not isinstance(item, Mapping):
        return item
    changed = _adapted(item, count, classes)
    whole = {key: changed.get(key, one) for key, one in item.items() if f"~{key}" not in changed}
    return {k: _rewritten({**item[k]}, count, classes) if isinstance(item[k], Mapping) else v for k, v in whole.items()}


def _class_weight(weights: list[float], count: int | None, classes: int) -> list[float] | None:
    """Return equal weights, and the last one if it is for "no object"; None if all weights are those of classes."""
    return [1.0] * classes + weights[-1:] if count is not None and len(weights) == count + 1 else None


def _weights(base: Config, model: dict[str, Any], changes: Changes) -> None:
    published = str(base.meta.get("weights") or "")
    found = find_weights(published) if published else None
    if found:
        changes.sections["load_from"] = found
        changes.why["load_from"] = "the published weights; head layers that do not fit are randomly initialised"
        changes.remarks.append(f"weights: published ones, from {found}")
        return
    if published:
        changes.remarks.append(
            f"the published weights are not on this machine; seg-kernel models download {base.name}, then init again"
        )
    missing = _backbone_weights(base.get("model") or {}, model, "model", changes)
    if missing:
        changes.remarks.append(f"{missing} starts from random weights: expect a worse model, and train longer")
    elif not published and not _names_weights(base.get("model")):
        if _is_at_hand(FOUNDATION):
            changes.why["_base_"] = f"weights: random; with few images, try init --model {FOUNDATION}"
            changes.remarks.append(
                f"weights: random (none are published for {base.name}); those of {FOUNDATION} are on this machine: "
                f"with few images, init with --model {FOUNDATION}"
            )
            return
        changes.why["_base_"] = f"weights: random; with few images, try init --model {PRETRAINED}"
        changes.remarks.append(
            f"weights: random (none are published for {base.name}); with few images, try pretrained ones: "
            f"seg-kernel models download {PRETRAINED}, then init with --model {PRETRAINED}"
        )


def _is_at_hand(name: str) -> bool:
    """Whether a packaged config exists, and the weights of its backbone are on this machine."""
    try:
        backbone = (load_config(name).get("model") or {}).get("backbone") or {}
    except SegKernelError:  # the package that has it is not installed
        return False
    return find_weights(str(backbone.get("pretrained") or "")) is not None


def _names_weights(value: Any) -> bool:
    """Whether a part of the model names a file of weights."""
    if isinstance(value, list):
        return any(map(_names_weights, value))
    return isinstance(value, Mapping) and (bool(value.get("pretrained")) or any(map(_names_weights, value.values())))


def _backbone_weights(part: Mapping[str, Any], changed: dict[str, Any], path: str, changes: Changes) -> str:
    """Keep backbone weights that are on this machine, remove the others; return the path of a removed one, or none."""
    missing = ""
    for key, value in part.items():
        if isinstance(value, Mapping):
            inner = dict(changed.get(key) or {})
            missing = _backbone_weights(value, inner, f"{path}.{key}", changes) or missing
            if inner:
                changed[key] = inner
        elif key == "pretrained" and isinstance(value, str):
            found = find_weights(value)
            if found is None:
                changed["~pretrained"] = None
                changes.why[f"{path}.~pretrained"] = f"{value} is not on this machine; remove this line to download it"
                if part.get("adapt"):
                    changed["~adapt"] = None
                    changes.why[f"{path}.~adapt"] = "random weights must learn; remove this line with the other"
                missing = f"{path}.backbone" if path == "model" else path
            elif found != value:
                changed["pretrained"] = found
                changes.why[f"{path}.pretrained"] = "found on this machine"
    return missing


def _loss(base: Config, model: dict[str, Any], rare: Sequence[str], changes: Changes) -> None:
    """Add a Dice loss to a head that has plain cross-entropy, if an installed package has one."""
    head = (base.get("model") or {}).get("decode_head")
    offered = {row.name for row in Catalog.discover().rows_of("losses")}
    if not isinstance(head, Mapping) or DICE not in offered or "task" in head:
        return
    loss = head.get("loss_decode", {"type": "CrossEntropyLoss"})
    other = [key for key in head if key.startswith("loss_") and key != "loss_decode"]
    if other or not isinstance(loss, Mapping) or loss.get("type") != "CrossEntropyLoss" or loss.get("use_sigmoid"):
        return
    weight = {"loss_weight": loss["loss_weight"]} if "loss_weight" in loss else {}
    losses = [{"type": "CrossEntropyLoss", **weight}, {"type": DICE}]
    model["decode_head"] = {**model.get("decode_head", {}), "loss_decode": losses}
    changes.why["model.decode_head.loss_decode"] = f"cross-entropy alone may never predict {rare[0]}, which is rare"


def _windows(base: Config, recipe: Recipe, model: dict[str, Any], changes: Changes) -> None:
    test = (base.get("model") or {}).get("test_cfg") or {}
    if not (str(test.get("mode", "whole")).startswith("slide") or recipe.windows):
        return
    crop = recipe.crop
    stride = [max(crop[0] * 2 // 3, 1), max(crop[1] * 2 // 3, 1)]
    mode = test.get("mode", "whole")
    mode = mode if str(mode).startswith("slide") else "slide"
    model["test_cfg"] = {"mode": mode, "crop_size": CROP, "stride": stride}
    reason = recipe.why["windows"] if recipe.windows else "the model sees windows of the size it was trained on"
    changes.why["model.test_cfg.mode"] = reason
    changes.why["model.test_cfg.crop_size"] = "the size of training samples"
    changes.why["model.test_cfg.stride"] = "windows overlap by a third"


# ---------------------------------------------------------------- the schedule


def schedule_changes(base: Config, recipe: Recipe) -> Changes:
    """Return the schedule of the chosen length, with all numbers of iterations scaled in proportion."""
    published = dict(base.get("schedule") or {})
    section: dict[str, Any] = {"iterations": recipe.iterations, "val_interval": recipe.val_interval}
    changes = Changes({"schedule": section})
    changes.why["schedule.iterations"] = recipe.why["iterations"]
    changes.why["schedule.val_interval"] = recipe.why["val_interval"]
    old = published.get("iterations")
    if published.get("epochs"):
        section["~epochs"] = None
        changes.why["schedule.~epochs"] = "the length is given in iterations"
    if published.get("val_begin") and old:
        section["val_begin"] = round(published["val_begin"] * recipe.iterations / old)
        changes.why["schedule.val_begin"] = "at the same share of the run as published"
    lr = [dict(one) for one in published.get("lr") or ()]
    if old and old != recipe.iterations and (scaled := _scaled(lr, old, recipe.iterations)) != lr:
        section["lr"] = scaled
        changes.why["schedule.lr"] = (
            f"published for {old:,} iterations: warm-up and decay are scaled to {recipe.iterations:,}"
        )
    hooks = _hooks(base, old, recipe)
    if hooks is not None:
        changes.sections["hooks"] = hooks
        changes.why["hooks"] = (
            f"intervals of checkpoints are scaled to {recipe.iterations:,} iterations"
            if base.get("hooks")
            else "curves, a progress bar, pictures of predictions, and load times; the model's config has none"
        )
    return changes


def _scaled(lr: list[dict[str, Any]], old: int, new: int) -> list[dict[str, Any]]:
    """Return learning rate schedules scaled to another number of iterations; those in epochs stay."""
    warm_up = next((one["end"] for one in lr if one["type"].startswith("Linear") and 0 < one.get("end", 0) < old), 0)
    longer = max(round(warm_up * new / old), min(warm_up, round(WARM_UP * new)), 1)

    def moved(place: int) -> int:
        if place <= warm_up:
            return round(place * longer / warm_up) if warm_up else 0
        return longer * bool(warm_up) + round((place - warm_up) * (new - longer * bool(warm_up)) / (old - warm_up))

    def of(one: dict[str, Any]) -> dict[str, Any]:
        if one.get("by_epoch"):
            return one
        single = {key: moved(one[key]) for key in _LENGTHS if isinstance(one.get(key), int)}
        several = {key: [moved(place) for place in one[key]] for key in _LENGTH_LISTS if isinstance(one.get(key), list)}
        return {**one, **single, **several}

    return [of(one) for one in lr]


def _hooks(base: Config, old: int | None, recipe: Recipe) -> list[dict[str, Any]] | None:
    """Return the hooks with scaled checkpoint intervals, None if unchanged; without hooks, those of ``starter``."""
    hooks = [dict(hook) for hook in base.get("hooks") or ()]
    if not hooks:
        try:
            return [dict(hook) for hook in load_config("starter").get("hooks") or ()] or None
        except SegKernelError:
            return None
    scaled = [
        {**hook, "interval": max(round(hook["interval"] * recipe.iterations / old), 1)}
        if old and str(hook.get("type")).endswith("CheckpointHook") and isinstance(hook.get("interval"), int)
        else hook
        for hook in hooks
    ]
    return scaled if scaled != hooks else None


# ---------------------------------------------------------------- transforms


def transform_changes(base: Config, recipe: Recipe) -> Changes:
    """Return the transforms of the base with the chosen sizes."""
    data = base.get("data") or {}
    train = [_resized(dict(one), recipe) for one in _plain(base.raw, "train_transforms", data)]
    scales = any(one["type"] in _RESIZES for one in train)
    scale = [recipe.resize[1], recipe.resize[0]] if recipe.resize else None
    resize = {"type": "Resize", "scale": scale, "keep_ratio": True}
    if scale and not scales:
        train = [resize, *train]
    if not train:
        train = [*([resize] if scale else []), {"type": "RandomCrop", "crop_size": CROP, "cat_max_ratio": 0.75}, _FLIP]
    section: dict[str, Any] = {"train_transforms": train, "eval_transforms": [resize] if scale else []}
    changes = Changes({"data": section})
    published = f"those of {base.name}, for images of {recipe.shown[0]} x {recipe.shown[1]}"
    changes.why["data.train_transforms"] = recipe.why["resize"] if scale else published
    changes.why["data.eval_transforms"] = (
        "predictions are scaled back: metrics are computed at the original size" if scale else "images keep their size"
    )
    same = all(section[key] == list(_plain(base.raw, key, data)) for key in section)
    return Changes() if same else changes


_RESIZES = ("RandomResize", "Resize", "ResizeShortestEdge", "RandomChoiceResize")


def _plain(raw: Mapping[str, Any], key: str, data: Mapping[str, Any]) -> list[Any]:
    """Return a list of transforms with unresolved references to the crop size."""
    written = (raw.get("data") or {}).get(key)
    return list(written if isinstance(written, list) else data.get(key) or [])


def _resized(transform: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return a transform with the chosen size in place of the one for the published data."""
    kind = transform["type"]
    if kind not in _RESIZES or "scale_factor" in transform:
        return transform
    height, width = recipe.resize or recipe.shown
    ratios = transform.get("ratio_range") or ([0.5, 2.0] if kind == "RandomChoiceResize" else None)
    if ratios is None:
        return {"type": "Resize", "scale": [width, height], "keep_ratio": True}
    return {"type": "RandomResize", "scale": [width, height], "ratio_range": list(ratios), "keep_ratio": True}
