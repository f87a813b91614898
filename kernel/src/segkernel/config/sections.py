"""The fixed sections of a config, and the keys that the kernel reads in them; everything else is a component's.

`segkernel.experiment` has the same as annotated classes; a test compares them. This list needs no torch.
"""

from __future__ import annotations

_KEYS = {
    "": "model data optim schedule engine hooks evaluate export plugins seed work_dir load_from",
    "data": "num_classes task crop_size align_corners train val test sampler train_transforms eval_transforms"
    " preprocess micro_batch eval_batch workers start_method opencv_threads persistent_workers",
    "data.preprocess": "mean std size size_divisor test_cfg",
    "data.preprocess.test_cfg": "size size_divisor",
    "optim": "optimizer batch_size clip_grad paramwise",
    "optim.clip_grad": "max_norm norm_type",
    "optim.paramwise": "custom_keys bias_lr_mult bias_decay_mult norm_decay_mult dwconv_decay_mult flat_decay_mult"
    " layer_decay",
    "optim.paramwise.layer_decay": "rate num_layers stage_wise",
    "schedule": "iterations epochs val_interval val_begin lr",
    "engine": "type device amp loss_scale channels_last cudnn_benchmark threads",
    "evaluate": "metrics test_cfg tta loss format_only",
    "evaluate.test_cfg": "mode crop_size stride scale_factor subdivision_steps subdivision_num_points",
    "evaluate.tta": "scales flip",
    "plugins": "prefer",
}
KEYS: dict[str, tuple[str, ...]] = {path: tuple(names.split()) for path, names in _KEYS.items()}
SECTIONS = KEYS[""]


def is_known(path: tuple[object, ...]) -> bool:
    """Return whether the kernel reads the key at ``path``."""
    above = ".".join(str(step) for step in path[:-1])
    return path[-1] in KEYS.get(above, ())
