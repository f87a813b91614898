"""Faster, Mask and Keypoint R-CNN: boxes, instance masks and keypoints.

    from segplug_instances import Convention

Importing this package imports no torch; a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# The names below are written by tools/update_known.py.
# isort: off
if TYPE_CHECKING:
    from segplug_instances.anchors import Anchors as Anchors
    from segplug_instances.conventions import Convention as Convention
    from segplug_instances.fpn import DetectionFPN as DetectionFPN
    from segplug_instances.metrics.coco import COCOMetric as COCOMetric
    from segplug_instances.output import Instances as Instances
    from segplug_instances.resnet import DetectionResNet as DetectionResNet
    from segplug_instances.resnet import FrozenBatchNorm2d as FrozenBatchNorm2d
    from segplug_instances.transforms import DetectionResize as DetectionResize
    from segplug_instances.weight_formats.detectron import DetectronBlobs as DetectronBlobs
    from segplug_instances.weight_formats.detectron import DetectronPickle as DetectronPickle
    from segplug_instances.weight_formats.detectron import DetectronPyTorch as DetectronPyTorch
# isort: on

_HOMES = {
    "Anchors": ".anchors",
    "COCOMetric": ".metrics.coco",
    "Convention": ".conventions",
    "DetectionFPN": ".fpn",
    "DetectionResNet": ".resnet",
    "DetectionResize": ".transforms",
    "DetectronBlobs": ".weight_formats.detectron",
    "DetectronPickle": ".weight_formats.detectron",
    "DetectronPyTorch": ".weight_formats.detectron",
    "FrozenBatchNorm2d": ".resnet",
    "Instances": ".output",
}
# Here they end.

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
