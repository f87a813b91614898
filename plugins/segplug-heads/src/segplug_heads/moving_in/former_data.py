"""Data of MMSegmentation 0.x in the form of 1.x: loaders, data sets, pipelines, and the preprocessor."""

from __future__ import annotations

from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList
from segplug_heads.moving_in.marking import made, plain, put, section, where
from segplug_heads.moving_in.notes import Notes

_DROPPED = ("DefaultFormatBundle", "ImageToTensor", "Collect", "Normalize", "Pad", "RandomFlip")
"""Steps of the list inside MultiScaleFlipAug that have no counterpart among the transforms of an evaluation."""

_PACKED = ("DefaultFormatBundle", "ImageToTensor", "Collect")
_LISTS = ("img_dir", "ann_dir", "split")
_USUAL_SCALES = [[1.0], [1]]


def modernize_data(data: MarkedDict, result: MarkedDict, notes: Notes) -> None:
    """Add the loaders of ``data`` to a config, and the preprocessor that its pipelines describe."""
    preprocessor = MarkedDict(place=data.place)
    for name in ("train", "val", "test"):
        spec = data.get(name)
        if not isinstance(spec, (MarkedDict, list)):
            continue
        loader = made(where(data, name), dataset=_data_set(spec, name, preprocessor, notes))
        if name == "train":
            for own in (data, section(data, "train_dataloader")):
                put(loader, "batch_size", own, "samples_per_gpu")
                put(loader, "num_workers", own, "workers_per_gpu")
        result[f"{name}_dataloader"] = loader
    known = ("train", "val", "test", "samples_per_gpu", "workers_per_gpu")
    notes.rest(data, (*known, "train_dataloader", "val_dataloader", "test_dataloader"), "data")
    if preprocessor:
        result["data_preprocessor"] = preprocessor


def _data_set(spec: Any, name: str, preprocessor: MarkedDict, notes: Notes) -> Any:
    if isinstance(spec, list):
        parts = [_data_set(part, name, preprocessor, notes) for part in spec]
        return made(where(spec), type="ConcatDataset", datasets=MarkedList(parts))
    if not isinstance(spec, MarkedDict):
        return spec
    if isinstance(spec.get("dataset"), (MarkedDict, list)):
        inner = _data_set(spec["dataset"], name, preprocessor, notes)
        result = spec.without("dataset", "pipeline")
        result["dataset"] = inner
        if "pipeline" in spec:
            result["pipeline"] = _pipeline(spec["pipeline"], preprocessor, notes)
        return result
    return _joined(spec, preprocessor, notes)


def _joined(spec: MarkedDict, preprocessor: MarkedDict, notes: Notes) -> MarkedDict:
    """Return a data set, or one for each of several folders or lists."""
    count = max((len(spec[key]) for key in _LISTS if isinstance(spec.get(key), list)), default=0)
    if not count:
        return _one_set(spec, preprocessor, notes)
    parts = MarkedList()
    for index in range(count):
        part = spec.copy()
        for key in _LISTS:
            if isinstance(part.get(key), list) and part[key]:
                part[key] = part[key][min(index, len(part[key]) - 1)]
        parts.append(_one_set(part, preprocessor, notes))
    return made(spec.place, type="ConcatDataset", datasets=parts)


def _one_set(spec: MarkedDict, preprocessor: MarkedDict, notes: Notes) -> MarkedDict:
    result = spec.without("img_dir", "ann_dir", "split", "classes", "palette", "pipeline", "test_mode")
    if result.get("type") == "CustomDataset":
        result["type"] = "BaseSegDataset"
    prefix, info = MarkedDict(place=spec.place), MarkedDict(place=spec.place)
    put(prefix, "img_path", spec, "img_dir")
    put(prefix, "seg_map_path", spec, "ann_dir")
    put(info, "classes", spec)
    put(info, "palette", spec)
    for key, value in {"data_prefix": prefix, "metainfo": info}.items():
        if value:
            result[key] = value
    put(result, "ann_file", spec, "split")
    if "pipeline" in spec:
        result["pipeline"] = _pipeline(spec["pipeline"], preprocessor, notes)
    return result


def _pipeline(steps: Any, preprocessor: MarkedDict, notes: Notes) -> MarkedList:
    result = MarkedList(place=where(steps))
    for step in steps if isinstance(steps, list) else ():
        kind = step.get("type") if isinstance(step, MarkedDict) else None
        if kind == "MultiScaleFlipAug":
            result += _test_steps(step, preprocessor, notes)
        elif kind == "Normalize":
            put(preprocessor, "mean", step)
            put(preprocessor, "std", step)
            preprocessor["bgr_to_rgb"] = bool(step.get("to_rgb", True))
        elif kind == "Pad":
            for key in ("size", "size_divisor"):
                if step.get(key) is not None:
                    put(preprocessor, key, step)
            put(preprocessor, "pad_val", step)
            put(preprocessor, "seg_pad_val", step)
        elif kind == "Resize":
            result.append(_resize(step, notes))
        elif kind == "RandomFlip" and "flip_ratio" in step:
            flip = step.without("flip_ratio")
            put(flip, "prob", step, "flip_ratio")
            result.append(flip)
        elif kind not in _PACKED:
            result.append(plain(step))
    return result


def _resize(step: MarkedDict, notes: Notes) -> MarkedDict:
    """Return the one of 1.x's three transforms that a Resize of 0.x is."""
    scale, place = step.get("img_scale"), step.place
    keep = step.get("keep_ratio", True)
    many = isinstance(scale, list) and bool(scale) and isinstance(scale[0], list)
    if step.get("min_size") is not None:
        notes.lost(step, "min_size", "there is no equivalent here: Resize takes scale and keep_ratio", "Resize")
    if step.get("ratio_range") is not None:
        result = made(place, type="RandomResize", scale=scale, ratio_range=step["ratio_range"], keep_ratio=keep)
    elif many and step.get("multiscale_mode", "range") == "range":
        result = made(place, type="RandomResize", scale=scale, keep_ratio=keep)
    elif many:
        result = made(place, type="RandomChoiceResize", scales=scale, resize_type="Resize", keep_ratio=keep)
    else:
        result = made(place, type="Resize", scale=scale, keep_ratio=keep)
    return result if scale is not None else result.without("scale")


def _test_steps(step: MarkedDict, preprocessor: MarkedDict, notes: Notes) -> MarkedList:
    """Return the transforms of an evaluation: those inside, at the scale that MultiScaleFlipAug gives them."""
    result = MarkedList()
    for inner in step.get("transforms") or ():
        kind = inner.get("type") if isinstance(inner, MarkedDict) else None
        if kind == "Resize":
            scaled = inner.copy()
            put(scaled, "img_scale", step)
            result.append(_resize(scaled, notes))
        elif kind == "Pad" and inner.get("size_divisor") is not None:
            preprocessor["test_cfg"] = made(where(inner), size_divisor=inner["size_divisor"])
        elif kind not in _DROPPED:
            result.append(plain(inner))
    scales = step.get("img_ratios")
    if step.get("flip") or (scales and scales not in _USUAL_SCALES):
        notes.views("MultiScaleFlipAug", scales or [1.0], bool(step.get("flip")), where(step))
    return result
