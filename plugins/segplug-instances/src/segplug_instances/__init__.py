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
    from segplug_instances.box_head import MLPBoxHead as MLPBoxHead
    from segplug_instances.box_head import Res5BoxHead as Res5BoxHead
    from segplug_instances.conventions import Convention as Convention
    from segplug_instances.fpn import DetectionFPN as DetectionFPN
    from segplug_instances.keypoint_head import KeypointHead as KeypointHead
    from segplug_instances.mask_head import MaskHead as MaskHead
    from segplug_instances.metrics.coco import COCOMetric as COCOMetric
    from segplug_instances.metrics.proposals import ProposalRecall as ProposalRecall
    from segplug_instances.moving_in.source import DetectronConfigs as DetectronConfigs
    from segplug_instances.output import Instances as Instances
    from segplug_instances.rcnn import RCNN as RCNN
    from segplug_instances.resnet import DetectionResNet as DetectionResNet
    from segplug_instances.resnet import FrozenBatchNorm2d as FrozenBatchNorm2d
    from segplug_instances.roi import RoIPooler as RoIPooler
    from segplug_instances.rpn import RPN as RPN
    from segplug_instances.transforms import DetectionResize as DetectionResize
    from segplug_instances.weight_formats.detectron import CaffeBody as CaffeBody
    from segplug_instances.weight_formats.detectron import DetectronBlobs as DetectronBlobs
    from segplug_instances.weight_formats.detectron import DetectronModelPickle as DetectronModelPickle
    from segplug_instances.weight_formats.detectron import DetectronPyTorch as DetectronPyTorch
    from segplug_instances.weight_formats.detectron2 import Detectron2 as Detectron2
    from segplug_instances.weight_formats.torchvision import TorchvisionDetector as TorchvisionDetector
# isort: on

_HOMES = {
    "Anchors": ".anchors",
    "COCOMetric": ".metrics.coco",
    "CaffeBody": ".weight_formats.detectron",
    "Convention": ".conventions",
    "DetectionFPN": ".fpn",
    "DetectionResNet": ".resnet",
    "DetectionResize": ".transforms",
    "Detectron2": ".weight_formats.detectron2",
    "DetectronBlobs": ".weight_formats.detectron",
    "DetectronConfigs": ".moving_in.source",
    "DetectronModelPickle": ".weight_formats.detectron",
    "DetectronPyTorch": ".weight_formats.detectron",
    "FrozenBatchNorm2d": ".resnet",
    "Instances": ".output",
    "KeypointHead": ".keypoint_head",
    "MLPBoxHead": ".box_head",
    "MaskHead": ".mask_head",
    "ProposalRecall": ".metrics.proposals",
    "RCNN": ".rcnn",
    "RPN": ".rpn",
    "Res5BoxHead": ".box_head",
    "RoIPooler": ".roi",
    "TorchvisionDetector": ".weight_formats.torchvision",
}
# Here they end.

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
