"""torchvision's detection models."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from segplug_instances.weight_formats.renaming import NORM_EPS, DetectorFormat, Weights

COCO_IDS = [id for id in range(1, 91) if id not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""The ids of COCO's 80 classes among the 90 that torchvision's models have."""


class TorchvisionDetector(DetectorFormat):
    """torchvision's names: ``backbone.body``, ``backbone.fpn``, ``rpn.head``, ``roi_heads``, of all its versions.

    A model of 80 classes takes those of COCO from a file of 90. Files without ``num_batches_tracked`` have frozen batch
    norm, from which torchvision takes the eps.
    """

    mark = r"^backbone\.body\.conv1\."
    conventions = ("torchvision",)
    background_first = True
    ignored = r"num_batches_tracked$"
    rules: ClassVar = (
        (r"^backbone\.body\.", "backbone."),
        (r"^backbone\.fpn\.inner_blocks\.", "neck.lateral_convs."),
        (r"^backbone\.fpn\.layer_blocks\.", "neck.fpn_convs."),
        (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.convs.0.\1"),
        (r"^rpn\.head\.conv\.", "rpn.convs."),
        (r"^rpn\.head\.", "rpn."),
        (r"^roi_heads\.box_head\.fc([67])\.", lambda found: f"box_head.fc{int(found[1]) - 5}."),
        (r"^roi_heads\.box_head\.\d\.(weight|bias)$", r"box_head.fc1.\1"),
        (r"^roi_heads\.box_head\.", "box_head.convs."),
        (r"^roi_heads\.box_predictor\.", "box_head."),
        (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda found: f"mask_head.convs.{int(found[1]) - 1}."),
        (r"^roi_heads\.mask_head\.", "mask_head.convs."),
        (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.upsample."),
        (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_head.mask_logits."),
        (r"^roi_heads\.keypoint_head\.(\d+)\.", lambda found: f"keypoint_head.convs.{int(found[1]) // 2}."),
        (r"^roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint_head.score_lowres."),
        # A convolution and its norm, in a sequence or, in old files, alone.
        (r"(convs\.\d+)\.(?:0\.)?(weight|bias)$", r"\1.conv.\2"),
        (r"(convs\.\d+)\.1\.", r"\1.bn."),
    )

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        published = not any(key.endswith("num_batches_tracked") for key in weights)
        return super().convert(module, _without_eps(weights) if published else weights)

    def reorder(self, name: str, value: Tensor, length: int) -> Tensor:
        value = super().reorder(name, value, length)
        coco = torch.tensor(COCO_IDS) - 1
        rows = {"cls_score": torch.cat([coco, torch.tensor([90])]), "mask_logits": coco,
                "bbox_pred": (coco[:, None] * 4 + torch.arange(4)).flatten()}  # fmt: skip
        chosen = rows.get(name.split(".")[-2])
        files = {"cls_score": 91, "mask_logits": 90, "bbox_pred": 360}.get(name.split(".")[-2])
        return value[chosen] if chosen is not None and len(value) == files and length == len(chosen) else value


def _without_eps(weights: Weights) -> Weights:
    """Return the weights with the batch norms of the body folded without eps."""
    folded = dict(weights)
    for name in [key for key in weights if key.startswith("backbone.body.") and key.endswith(".running_var")]:
        layer = name.removesuffix("running_var")
        scale = weights[f"{layer}weight"] * weights[name].rsqrt()
        folded[f"{layer}bias"] = weights[f"{layer}bias"] - weights[f"{layer}running_mean"] * scale
        folded[f"{layer}weight"] = scale
        folded[f"{layer}running_mean"] = torch.zeros_like(scale)
        folded[name] = torch.full_like(scale, 1 - NORM_EPS)
    return folded
