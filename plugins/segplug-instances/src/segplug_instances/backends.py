"""Faster implementations of RoIAlign, RoIPool and NMS: torchvision's operators, and Triton's kernels on CUDA.

Both are compared with plain torch on a small input before their first use, and are not used if they differ.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from segplug_instances.tracing import is_exporting

log = logging.getLogger(__name__)
_SAMPLING = ((0, False), (2, True))  # sampling ratio; aligned


def torchvision_ops(values: Tensor) -> Any:
    """Return ``torchvision.ops`` if it is installed and takes tensors of this type and device, else None."""
    known = values.dtype in (torch.float32, torch.float64, torch.float16)
    return _ops("torchvision.ops", values.device) if known and not is_exporting() else None


def triton_ops(values: Tensor) -> Any:
    """Return `segplug_instances.triton_ops` if Triton is installed and takes tensors like this one, else None."""
    known = values.device.type == "cuda" and values.dtype != torch.float64
    return _ops("segplug_instances.triton_ops", values.device) if known and not is_exporting() else None


@lru_cache
def _ops(name: str, device: torch.device) -> Any:
    try:
        ops = importlib.import_module(name)
    except ModuleNotFoundError:
        return None
    except Exception as error:  # built for another torch
        log.warning("%s is not used, it cannot be imported: %s", name, error)
        return None
    try:
        (compare_torchvision if name.startswith("torchvision") else compare_triton)(ops, device)
    except Exception as error:  # of any kind: kernels are compiled here, with the system's compiler and driver
        log.warning("%s is not used on %s, torch computes instead: %s", name, device, error)
        return None
    return ops


def compare_torchvision(ops: Any, device: torch.device) -> None:
    """Compare operators with plain torch on a small input; raise `RuntimeError` when they differ."""
    from segplug_instances import roi
    from segplug_instances.conventions import TORCHVISION
    from segplug_instances.nms import kept_boxes, least_dropped

    features, rois, scores = _example(device)
    for ratio, aligned in _SAMPLING:
        _agree("roi_align", ops.roi_align, roi.align, features, rois, (3, 2), 0.9, ratio, aligned)
    _agree("roi_pool", ops.roi_pool, roi.max_pool, features, rois, (3, 2), 0.9)
    order = scores.argsort(descending=True)
    wanted = order[kept_boxes(rois[order, 1:], None, least_dropped(0.4, TORCHVISION), TORCHVISION)]
    if not torch.equal(ops.nms(rois[:, 1:], scores, 0.4), wanted):
        raise RuntimeError("nms keeps other boxes")


def compare_triton(ops: Any, device: torch.device) -> None:
    """Compare kernels with plain torch on a small input; raise `RuntimeError` when they differ."""
    from segplug_instances import nms, roi
    from segplug_instances.conventions import DETECTRON

    features, rois, _ = _example(device)
    for ratio, aligned in _SAMPLING:
        _agree("roi_align", partial(roi.align, kernels=ops), roi.align, features, rois, (3, 2), 0.9, ratio, aligned)
    groups = torch.arange(len(rois), device=device) % 2
    found, wanted = (each.kept_boxes(rois[:, 1:], groups, 0.4, DETECTRON) for each in (ops, nms))
    if not torch.equal(found, wanted):
        raise RuntimeError("nms keeps other boxes")


def _example(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return feature maps (2, 5, 9, 12), regions (16, 5) and scores (16,)."""
    draw = torch.Generator().manual_seed(0)
    features, rois = torch.randn(2, 5, 9, 12, generator=draw), torch.rand(16, 5, generator=draw) * 6
    rois[:, 0] = torch.arange(16) % 2
    rois[:, 3:] += rois[:, 1:3]
    return features.to(device), rois.to(device), torch.rand(16, generator=draw).to(device)


def _agree(name: str, fast: Callable[..., Tensor], plain: Callable[..., Tensor], features: Tensor, *rest: Any) -> None:
    """Compare values and gradients of two functions of feature maps."""
    found = []
    with torch.enable_grad():
        for function in (fast, plain):
            leaf = features.detach().requires_grad_()
            values = function(leaf, *rest)
            found.append((values.detach(), *torch.autograd.grad(values.square().sum(), leaf)))
    for got, wanted in zip(*found):
        error = (got - wanted).abs().max() / wanted.abs().max()
        if not error < 1e-5:
            raise RuntimeError(f"{name} is off by {error:.1e}")
