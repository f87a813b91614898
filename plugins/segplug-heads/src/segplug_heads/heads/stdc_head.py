"""STDC's detail head: it learns where the borders between classes are, for training only.

Fan et al., Rethinking BiSeNet For Real-time Semantic Segmentation, 2021.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.labels import Task
from segkernel.nn import resize
from segkernel.sample import Targets
from segplug_heads.heads.fcn_block_head import FCNBlockHeadArguments
from segplug_heads.heads.fcn_head import FCNHead


class STDCHeadArguments(FCNBlockHeadArguments, total=False):
    """The arguments of `FCNHead`."""

    num_convs: int


class STDCHead(FCNHead):
    """(N, in_channels, h, w) -> (N, 2, h, w); an `FCNHead` that learns borders found in the labels.

    A pixel is on a border when a Laplacian of the label map, over three scales, says so.

    Args:
        boundary_threshold: From which value a Laplacian is a border.
    """

    fixed_arguments = frozenset({"task"})  # borders are a yes or no of their own
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary")
    conformance: ClassVar = {"in_channels": 16, "channels": 8, "num_classes": 2, "num_convs": 1, "concat_input": False}

    laplacian_kernel: Tensor

    def __init__(self, boundary_threshold: float = 0.1, **kwargs: Unpack[STDCHeadArguments]) -> None:
        super().__init__(**kwargs)
        self.boundary_threshold = boundary_threshold
        kernel = torch.full((1, 1, 3, 3), -1.0)
        kernel[0, 0, 1, 1] = 8.0
        self.register_buffer("laplacian_kernel", kernel)
        shares = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
        self.fusion_kernel = nn.Parameter(shares, requires_grad=False)

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        borders = self.borders(targets["seg"])
        return self.loss_by_logits(self(features), borders, targets.get("weight"))

    @torch.no_grad()
    def borders(self, labels: Tensor) -> Tensor:
        """Return 1 on borders, else 0, for class ids (N, H, W); ignored pixels have borders, too."""
        ids = labels.unsqueeze(1).to(self.laplacian_kernel.dtype)
        scales = [F.conv2d(ids, self.laplacian_kernel, stride=stride, padding=1) for stride in (1, 2, 4)]
        same_size = [resize(scale, ids.shape[2:], mode="nearest") for scale in scales]
        maps = (torch.cat(same_size, 1) > self.boundary_threshold).to(ids.dtype)
        return ((maps * self.fusion_kernel).sum(1) > self.boundary_threshold).long()
