"""The fixed sections of a config, and the keys that the kernel itself reads in them."""

from __future__ import annotations

SECTIONS: dict[str, str] = {
    "model": "the segmentor",
    "data": "data sets, transforms, preprocessing and loading",
    "optim": "optimizer, total batch size, clipping, parameter groups",
    "schedule": "length of training, validation interval, learning rate",
    "engine": "device, precision, parallelism",
    "hooks": "what is called at the moments of a run",
    "evaluate": "metrics, batch size, inference mode, what is written",
    "export": "what is exported at the end",
    "plugins": "which distribution wins where two offer one name",
    "seed": "of all random draws",
    "work_dir": "folder of the run",
    "load_from": "checkpoint to start from, at iteration 0",
}

# key path -> JSON type; a group name in angle brackets stands for a component of that group
KEYS: dict[str, str] = {
    "model": "<segmentors>",
    "data.num_classes": "integer",
    "data.crop_size": "array",
    "data.align_corners": "boolean",
    "data.train": "<datasets>",
    "data.val": "<datasets>",
    "data.test": "<datasets>",
    "data.train_transforms": "[transforms]",
    "data.eval_transforms": "[transforms]",
    "data.preprocess.mean": "array",
    "data.preprocess.std": "array",
    "data.preprocess.size": "array",
    "data.preprocess.size_divisor": "integer",
    "data.micro_batch": "integer",
    "data.workers": "integer",
    "data.start_method": "string",
    "data.opencv_threads": "integer",
    "data.persistent_workers": "boolean",
    "optim.optimizer": "<optimizers>",
    "optim.batch_size": "integer",
    "optim.clip_grad.max_norm": "number",
    "optim.paramwise": "object",
    "schedule.iterations": "integer",
    "schedule.epochs": "integer",
    "schedule.val_interval": "integer",
    "schedule.lr": "[schedules]",
    "engine": "<engines>",
    "engine.device": "string",
    "engine.amp": "any",
    "engine.channels_last": "boolean",
    "engine.cudnn_benchmark": "boolean",
    "hooks": "[hooks]",
    "evaluate.metrics": "[metrics]",
    "evaluate.batch_size": "integer",
    "evaluate.test_cfg": "object",
    "evaluate.tta": "any",
    "evaluate.loss": "boolean",
    "evaluate.format_only": "boolean",
    "evaluate.pictures": "any",
    "export": "[exporters]",
    "plugins.prefer": "array",
    "seed": "integer",
    "work_dir": "string",
    "load_from": "string",
}


def is_known(path: str) -> bool:
    """Return whether the kernel reads ``path`` or something under it, or takes anything under it."""
    return any(key == path or key.startswith(f"{path}.") for key in KEYS) or any(
        path.startswith(f"{key}.") for key, kind in KEYS.items() if kind in ("object", "any")
    )


def keys_under(path: str) -> list[str]:
    """Return the keys that the kernel reads directly under ``path``."""
    prefix = f"{path}." if path else ""
    names = [key[len(prefix) :].split(".")[0] for key in KEYS if key.startswith(prefix) and key != path]
    return list(dict.fromkeys(names))
