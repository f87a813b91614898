"""Labels in an ONNX file, class by class: a loop that enlarges one plane of logits at a time and keeps the largest.

`resized_argmax` is the operator in the captured graph, `translations` what torch's exporter writes for it. The labels
are those of enlarged logits, in less memory and, with many classes, half of the time. OpenVINO's loops take longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

UINT8, INT64 = 2, 7  # of onnx.TensorProto


@torch.library.custom_op("segplug_deploy::resized_argmax", mutates_args=())
def resized_argmax(logits: Tensor, height: int, width: int, align_corners: bool, few: bool) -> Tensor:
    """Return the class ids (N, height, width) of logits (N, K, h, w); uint8 for ``few`` classes, else int64."""
    labels = interpolate(logits, (height, width), None, "bilinear", align_corners).argmax(1)
    return labels.to(torch.uint8) if few else labels


@torch.library.register_fake("segplug_deploy::resized_argmax")
def _(logits: Tensor, height: int, width: int, align_corners: bool, few: bool) -> Tensor:
    return logits.new_empty((logits.shape[0], height, width), dtype=torch.uint8 if few else torch.int64)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translation of `resized_argmax` for `torch.onnx.export`."""
    import onnxscript

    op: Any = onnxscript.opset18

    @onnxscript.script(default_opset=op)
    def loop(logits, height, width, corners: str, kind: int) -> Any:  # type: ignore[no-untyped-def]
        images = op.Shape(logits, start=0, end=1)
        size = op.Concat(images, [1], op.Reshape(height, [-1]), op.Reshape(width, [-1]), axis=0)
        first = op.Slice(logits, [0], [1], [1])
        best = op.Resize(first, None, None, size, mode="linear", coordinate_transformation_mode=corners)
        labels = op.Cast(op.ConstantOfShape(size), to=kind)
        for index in range(op.Squeeze(op.Shape(logits, start=1, end=2)) - 1):
            number = op.Reshape(index, [-1]) + 1
            plane = op.Slice(logits, number, number + 1, [1])
            values = op.Resize(plane, None, None, size, mode="linear", coordinate_transformation_mode=corners)
            labels = op.Where(values > best, op.Cast(number, to=kind), labels)
            best = op.Max(values, best)
        return op.Squeeze(labels, [1])

    def translate(logits: Any, height: Any, width: Any, align_corners: bool, few: bool) -> Any:
        corners = "align_corners" if align_corners else "half_pixel"
        return loop(logits, height, width, corners=corners, kind=UINT8 if few else INT64)

    return {torch.ops.segplug_deploy.resized_argmax.default: translate}
