"""STDC's detail head: learns the boundaries between classes; for training only.

Rethinking BiSeNet For Real-time Semantic Segmentation, Fan et al., 2021 (https://arxiv.org/abs/2104.13188).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import NonNegativeInt, Probability
from segkernel.interfaces.model import Features
from segkernel.labels import Task
from segkernel.nn import resize
from segkernel.sample import Targets
from segplug_heads.heads.fcn_block_head import FCNBlockHeadArguments
from segplug_heads.heads.fcn_head import FCNHead


class STDCHeadArguments(FCNBlockHeadArguments, total=False):
    """The arguments of `FCNHead`."""

    num_convs: NonNegativeInt


class STDCHead(FCNHead):
    """(N, in_channels, h, w) -> logits (N, 2, h, w); an `FCNHead` that learns boundaries derived from the labels.

    They are where a Laplacian of the label map, at three strides, is above a threshold (section 3.3 of the paper).

    Args:
        boundary_threshold: Threshold of the Laplacian, and of the weighted sum of the three maps.
    """

    fixed_arguments = frozenset({"task"})  # boundaries are two classes, whatever the task of the labels
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary")
    learns_classes: ClassVar[bool] = False
    conformance_exceptions: ClassVar = {"all-ignored": "as in MMSegmentation, pixels to be ignored have no edges"}
    conformance: ClassVar = {"in_channels": 16, "channels": 8, "num_classes": 2, "num_convs": 1, "concat_input": False}

    laplacian_kernel: Tensor

    def __init__(self, boundary_threshold: Probability = 0.1, **kwargs: Unpack[STDCHeadArguments]) -> None:
        super().__init__(**kwargs)
        self.boundary_threshold = boundary_threshold
        kernel = torch.full((1, 1, 3, 3), -1.0)
        kernel[0, 0, 1, 1] = 8.0
        self.register_buffer("laplacian_kernel", kernel)
        # The fusion is a learnable convolution in the paper; the reference implementation fixes these weights.
        fusion_weights = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
        self.fusion_kernel = nn.Parameter(fusion_weights, requires_grad=False)

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        boundaries = self.boundaries(targets["seg"])
        return self.loss_by_logits(self(features), boundaries, targets.get("weight"))

    @torch.no_grad()
    def boundaries(self, labels: Tensor) -> Tensor:
        """Return 1 on boundaries and 0 elsewhere, for class ids (N, H, W); also at the edges of ignored regions."""
        ids = labels.unsqueeze(1).to(self.laplacian_kernel.dtype)
        scales = [F.conv2d(ids, self.laplacian_kernel, stride=stride, padding=1) for stride in (1, 2, 4)]
        same_size = [resize(scale, ids.shape[2:], mode="nearest") for scale in scales]
        maps = (torch.cat(same_size, 1) > self.boundary_threshold).to(ids.dtype)
        return ((maps * self.fusion_kernel).sum(1) > self.boundary_threshold).long()
