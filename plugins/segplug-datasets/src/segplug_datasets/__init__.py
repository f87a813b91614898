"""Data sets, transforms and metrics for seg-kernel, and overlays of predictions.

    from segplug_datasets import draw, predict_images

Importing this package imports nothing else; a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segplug_datasets.pictures_hook import PicturesHook as PicturesHook
    from segplug_datasets.predict import collect_images as collect_images
    from segplug_datasets.predict import predict_images as predict_images
    from segplug_datasets.torch_data import TorchDataset as TorchDataset
    from segplug_datasets.visualize import draw as draw

_HOMES = {
    "PicturesHook": "pictures_hook",
    "TorchDataset": "torch_data",
    "collect_images": "predict",
    "draw": "visualize",
    "predict_images": "predict",
}

__all__ = ["PicturesHook", "TorchDataset", "collect_images", "draw", "predict_images"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
