"""detectron2's models, in ``.pth`` or ``.pkl`` files, and its ImageNet ResNets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar

from segplug_instances.weight_formats.renaming import DetectorFormat


def _numbered(part: str, first: int = 1) -> Callable[[re.Match[str]], str]:
    """Return a replacement for layers that are counted from ``first``, with their norms inside them."""
    return lambda found: f"{part}.{int(found[1]) - first}.{'bn' if found[2] else 'conv'}."


class Detectron2(DetectorFormat):
    """detectron2's names: ``backbone.bottom_up.res2``, ``proposal_generator``, ``roi_heads`` and so on."""

    mark = r"(^|\.)stem\.conv1\.norm\.|^proposal_generator\."
    conventions = ("detectron2",)
    bgr = True
    ignored = r"^pixel_(mean|std)$|anchor_generator\.|num_batches_tracked$|^(stem\.)?fc\."
    rules: ClassVar = (
        (r"^(?:backbone\.)?(?:bottom_up\.)?stem\.conv1\.norm\.", "backbone.bn1."),
        (r"^(?:backbone\.)?(?:bottom_up\.)?stem\.conv1\.", "backbone.conv1."),
        (r"^(?:backbone\.|roi_heads\.)?(?:bottom_up\.)?res([2-5])\.",
         lambda found: f"backbone.layer{int(found[1]) - 1}."),
        (r"^(backbone\.layer.+)shortcut\.norm\.", r"\1downsample.1."),
        (r"^(backbone\.layer.+)shortcut\.", r"\1downsample.0."),
        (r"^(backbone\.layer.+)conv([123])\.norm\.", r"\1bn\2."),
        (r"^backbone\.fpn_lateral(\d)\.(norm\.)?", _numbered("neck.lateral_convs", first=2)),
        (r"^backbone\.fpn_output(\d)\.(norm\.)?", _numbered("neck.fpn_convs", first=2)),
        (r"^proposal_generator\.rpn_head\.conv\.(?:conv)?(\d)\.", r"rpn.convs.\1.conv."),
        (r"^proposal_generator\.rpn_head\.conv\.", "rpn.convs.0.conv."),
        (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.cls_logits."),
        (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.bbox_pred."),
        (r"^roi_heads\.box_head\.conv(\d)\.(norm\.)?", _numbered("box_head.convs")),
        (r"^roi_heads\.box_(?:head|predictor)\.", "box_head."),
        (r"^roi_heads\.mask_head\.mask_fcn(\d)\.(norm\.)?", _numbered("mask_head.convs")),
        (r"^roi_heads\.mask_head\.deconv\.", "mask_head.upsample."),
        (r"^roi_heads\.mask_head\.predictor\.", "mask_head.mask_logits."),
        (r"^roi_heads\.keypoint_head\.conv_fcn(\d)\.(norm\.)?", _numbered("keypoint_head.convs")),
        (r"^roi_heads\.keypoint_head\.score_lowres\.", "keypoint_head.score_lowres."),
    )  # fmt: skip
