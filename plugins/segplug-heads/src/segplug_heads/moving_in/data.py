"""Data sets, pipelines, loaders and the preprocessor of MMSegmentation 1.x as our section ``data``."""

from __future__ import annotations

from typing import Any, NamedTuple

from segkernel.config.marks import MarkedDict, MarkedList
from segplug_heads.moving_in.marking import kind_of, made, plain, put, section, where
from segplug_heads.moving_in.names import translate
from segplug_heads.moving_in.notes import Notes

READING = (
    *("LoadImageFromFile", "LoadAnnotations", "LoadDepthAnnotation", "LoadMultipleRSImageFromFile"),
    *("LoadSingleRSImageFromFile", "LoadImageFromNDArray"),
)
"""Steps of pipelines that are part of a data set here, with their arguments."""

PACKING = ("PackSegInputs",)
"""Steps of pipelines that the loader performs here."""

_MACHINE = ("file_client_args", "imdecode_backend", "backend_args", "to_float32", "lazy_init", "serialize_data")
"""Arguments that choose how files are read, not what they mean."""

_COLLATES = ("pseudo_collate", "default_collate")
_LOADER = ("batch_size", "num_workers", "dataset", "sampler", "persistent_workers", "pin_memory", "drop_last")
_SAMPLERS = ("InfiniteSampler", "DefaultSampler")
_USUAL_WORKERS = 4


_FOLDERS = {
    "": {
        "data_root": "data_root",
        "img_suffix": "image_suffix",
        "seg_map_suffix": "mask_suffix",
        "ann_file": "split",
        "indices": "indices",
    },
    "data_prefix": {"img_path": "images", "seg_map_path": "masks"},
    "metainfo": {"classes": "classes", "palette": "palette"},
}
"""Arguments of BaseSegDataset, and of its mappings, and those of FolderDataset."""


class DataSet(NamedTuple):
    """A data set, and the transforms of its pipeline; None if it has no pipeline."""

    spec: MarkedDict
    transforms: MarkedList | None


def data_section(config: MarkedDict, notes: Notes) -> MarkedDict:
    """Return the data sets, their transforms, and the preprocessor."""
    result = MarkedDict()
    loaders = {name: _loader(config, f"{name}_dataloader", notes) for name in ("train", "val", "test")}
    sets = {name: data_set(loader["dataset"], notes) for name, loader in loaders.items() if loader.get("dataset")}
    if "train" in sets and _counts_iterations(config):
        sets["train"] = DataSet(_unrepeated(sets["train"].spec), sets["train"].transforms)
    if "val" not in sets and "test" in sets:
        sets["val"] = sets["test"]
    for name, found in sets.items():
        if found.spec:
            put(result, name, made(found.spec.place, **{name: found.spec}))
    if "train" in sets and sets["train"].transforms is not None:
        result["train_transforms"] = sets["train"].transforms
    if "val" in sets and sets["val"].transforms is not None:
        result["eval_transforms"] = sets["val"].transforms
    if "test" in sets and sets["test"].transforms != sets["val"].transforms:
        notes.lost(loaders["test"], "dataset", "its pipeline differs from that of validation, which tests have here")
    preprocess = _preprocessor(config)
    if preprocess:
        result["preprocess"] = preprocess_section(preprocess, notes)
    workers = loaders["train"].get("num_workers")
    if isinstance(workers, int) and workers > _USUAL_WORKERS:
        put(result, "workers", loaders["train"], "num_workers")
    return result


def _counts_iterations(config: MarkedDict) -> bool:
    return "max_iters" in section(config, "train_cfg")


def _unrepeated(spec: MarkedDict) -> MarkedDict:
    """Return what a data set repeats: training draws without end, so that only the length of an epoch changes."""
    while spec.get("type") == "RepeatDataset" and section(spec, "dataset"):
        spec = spec["dataset"]
    return spec


def _loader(config: MarkedDict, name: str, notes: Notes) -> MarkedDict:
    loader = section(config, name)
    is_usual = kind_of(loader.get("collate_fn")) in _COLLATES
    notes.rest(loader.without("collate_fn") if is_usual else loader, _LOADER, name)
    if kind_of(loader.get("sampler", _SAMPLERS[0])) not in _SAMPLERS:
        notes.lost(loader, "sampler", "samplers are data.sampler, such as BalancedSampler", name)
    return loader


def _preprocessor(config: MarkedDict) -> MarkedDict:
    """Return the preprocessor of the model, or the variable of this name, which models refer to."""
    model = section(config, "model")
    return section(config if model.get("data_preprocessor") is None else model, "data_preprocessor")


def preprocess_section(spec: MarkedDict, notes: Notes) -> MarkedDict:
    """Return the normalisation; padding is 0 for images and ignored for labels, and images are RGB, here."""
    result = MarkedDict(place=spec.place)
    for key in ("mean", "std", "size", "size_divisor", "test_cfg"):
        put(result, key, spec)
    if not spec.get("bgr_to_rgb", True) and not spec.get("rgb_to_bgr", False):
        result["channel_order"] = "bgr"
    if spec.get("pad_val", 0) != 0:
        notes.lost(spec, "pad_val", "images are padded with 0 after normalisation", "data_preprocessor")
    if spec.get("seg_pad_val", 255) != 255 and "size" not in spec:
        notes.lost(spec, "seg_pad_val", "labels are padded with 255, which is ignored", "data_preprocessor")
    known = (*result, "pad_val", "seg_pad_val", "bgr_to_rgb", "rgb_to_bgr", "non_blocking")
    notes.rest(spec, known, "data_preprocessor")
    return result


def data_set(spec: Any, notes: Notes) -> DataSet:
    """Return a data set and the transforms of its pipeline, or of the common pipeline of its parts."""
    if not isinstance(spec, MarkedDict):
        return DataSet(MarkedDict(), None)
    spec = translate(spec)
    kind = spec.get("type")
    if isinstance(spec.get("datasets"), list):
        return _parts(spec, notes)
    if section(spec, "dataset") and kind == "MultiImageMixDataset":
        inner = data_set(spec["dataset"], notes)
        mixed = transforms(spec.get("pipeline"), notes)
        return DataSet(inner.spec, MarkedList([*(inner.transforms or ()), *(mixed or ())]))
    if section(spec, "dataset"):
        inner = data_set(spec["dataset"], notes)
        return DataSet(_with(spec, "dataset", inner.spec), inner.transforms)
    pipeline = spec.pop("pipeline", None)
    for step in pipeline if isinstance(pipeline, list) else ():
        if isinstance(step, MarkedDict) and step.get("type") in READING:
            for key in step:
                if key != "type" and key not in _MACHINE:
                    put(spec, key, step)
    for key in ("test_mode", *_MACHINE):  # labels are always read; files are, too
        spec.pop(key, None)
    spec = _folders(spec, notes) if kind == "BaseSegDataset" else spec
    return DataSet(spec, transforms(pipeline, notes))


def _folders(spec: MarkedDict, notes: Notes) -> MarkedDict:
    """Return the data set of image and label folders that a BaseSegDataset is."""
    result = made(spec.place, type="FolderDataset")
    for part, names in _FOLDERS.items():
        for old, new in names.items():
            put(result, new, section(spec, part) if part else spec, old)
    if spec.get("reduce_zero_label"):
        put(result, "offset", spec, "reduce_zero_label")
        result["offset"] = 1
    if isinstance(spec.get("ignore_index"), int) and spec["ignore_index"] != 255:
        put(result, "ignore", spec, "ignore_index")
        result["ignore"] = [spec["ignore_index"]]
    known = {old for names in _FOLDERS.values() for old in names} | {"data_prefix", "metainfo"}
    notes.rest(spec, {*known, "reduce_zero_label", "ignore_index", "max_refetch"}, "dataset")
    return result


def _parts(spec: MarkedDict, notes: Notes) -> DataSet:
    parts = [data_set(part, notes) for part in spec["datasets"]]
    pipelines = [part.transforms for part in parts if part.transforms is not None]
    if any(steps != pipelines[0] for steps in pipelines):
        notes.lost(spec, "datasets", "their pipelines differ; data.train_transforms is one, here that of the first")
    own = transforms(spec.pop("pipeline", None), notes) if "pipeline" in spec else None
    first = pipelines[0] if pipelines else own
    return DataSet(_with(spec, "datasets", MarkedList([part.spec for part in parts])), first)


def _with(spec: MarkedDict, key: str, value: Any) -> MarkedDict:
    copy = spec.copy()
    copy[key] = value
    return copy


def transforms(pipeline: Any, notes: Notes) -> MarkedList | None:
    """Return the transforms of a pipeline, without reading and packing."""
    if not isinstance(pipeline, list):
        return None
    result = MarkedList(place=where(pipeline))
    for step in pipeline:
        kind = step.get("type") if isinstance(step, MarkedDict) else None
        if kind in PACKING and "meta_keys" in step:
            continue
        if kind in (*READING, *PACKING):
            continue
        if kind == "TestTimeAug":
            notes.say("TestTimeAug", "it is evaluate.tta: {scales: [...], flip: true}", where(step))
            continue
        result.append(plain(step))
    return result
