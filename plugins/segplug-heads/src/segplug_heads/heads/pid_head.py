"""PIDNet's head: a classifier of the fused map, and for training one of the detail and one of the boundary branch.

PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers, Xu et al., 2023
(https://arxiv.org/abs/2206.02066). The names of the branches are those of the controller: P is detail, I is context,
here fused with the others, and D is the boundary.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Features
from segkernel.labels import Task
from segkernel.nn import (
    ConvModule,
    DecodeHead,
    HeadOptions,
    LayerConfig,
    StridedLogits,
    build_activation,
    build_norm,
)
from segkernel.sample import Targets

BOUNDARY_THRESHOLD = 0.8
"""Boundary probability above which a pixel counts for ``loss_sem_bd``, t in equation 2 of the paper."""


class PIDBranch(nn.Module):
    """3x3 convolution with norm and activation before and after it: (N, in_channels, h, w) -> (N, channels, h, w).

    Args:
        in_channels: Input channels.
        channels: Output channels.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
    """

    def __init__(self, in_channels: int, channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv = ConvModule(
            in_channels,
            channels,
            3,
            padding=1,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            order=("norm", "act", "conv"),
        )
        self.norm = build_norm(norm_cfg, channels)[1]
        self.act = build_activation(act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class PIDHead(DecodeHead):
    """Detail and boundary maps of ``in_channels`` / 2 channels, and the fused map -> logits (N, out_channels, h, w).

    The losses are ``loss_sem_p`` of the detail map's logits, ``loss_sem_i`` of the fused map's, ``loss_bd`` of the
    boundary logits, and ``loss_sem_bd`` of the fused map's where a boundary was predicted.

    The target ``edge`` (N, H, W) is 1 on boundaries; without it, boundaries four pixels wide are derived from labels.

    Args:
        in_channels: Channels of the fused map, a multiple of 4.
        channels: Channels before each classifier.
        num_classes: Number of classes.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
        conv_cfg: Not used, accepted as by every decode head.
        loss_decode: Four losses, in the order above.

    Raises:
        ConfigError: There are not four losses.
    """

    fixed_arguments = frozenset({"input_transform", "sampler"})
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass",)
    conformance: ClassVar = {
        "in_channels": 16, "channels": 8, "num_classes": 4,
        "loss_decode": [
            {"type": "CrossEntropyLoss"}, {"type": "OhemCrossEntropy"}, {"type": "BoundaryLoss"},
            {"type": "OhemCrossEntropy"},
        ],
    }  # fmt: skip
    conformance_inputs: ClassVar = {"features": [(8, 8), (8, 8), (16, 8)]}

    def __init__(
        self,
        in_channels: PositiveInt,
        channels: PositiveInt,
        num_classes: PositiveInt,
        norm_cfg: LayerConfig = {"type": "BN"},  # noqa: B006  never changed
        act_cfg: LayerConfig = {"type": "ReLU", "inplace": True},  # noqa: B006  never changed
        conv_cfg: LayerConfig | None = None,
        **kwargs: Unpack[HeadOptions],
    ) -> None:
        super().__init__(
            in_channels,
            channels,
            num_classes=num_classes,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            **kwargs,
        )
        if len(self._losses()) != 4:
            message = f"{len(self._losses())} losses, four are needed: of detail, result, boundary, result at boundary"
            raise ConfigError(Problem(message, "loss_decode"))
        half, quarter = in_channels // 2, in_channels // 4
        self.i_head = PIDBranch(in_channels, channels, norm_cfg, act_cfg)
        self.p_head = PIDBranch(half, channels, norm_cfg, act_cfg)
        self.d_head = PIDBranch(half, quarter, norm_cfg, act_cfg)
        self.p_cls_seg = nn.Conv2d(channels, self.out_channels, 1)
        self.d_cls_seg = nn.Conv2d(quarter, 1, 1)

    def forward(self, features: Features) -> Tensor:
        return self.cls_seg(self.i_head(self.select(features)))

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return self.single_pass(features, targets)[1]

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        target = targets["seg"]
        edge = targets["edge"] if "edge" in targets else boundaries_of(target)
        options = {"weight": targets.get("weight"), "ignore_index": self.ignore_index}
        detail, result, boundary = self._branch_logits(features, target.shape[1:])
        # The paper's boundary-awareness loss: semantic loss on pixels that the D branch predicts as boundaries.
        at_boundary = torch.where(boundary.full.squeeze(1).sigmoid() > BOUNDARY_THRESHOLD, target, self.ignore_index)
        loss_sem_p, loss_sem_i, loss_bd, loss_sem_bd = self._losses()
        return result.small, {
            "loss_sem_p": detail.loss(loss_sem_p, target, **options),
            "loss_sem_i": result.loss(loss_sem_i, target, **options),
            "loss_bd": boundary.loss(loss_bd, edge, **options),
            "loss_sem_bd": result.loss(loss_sem_bd, at_boundary, **options),
            "acc_seg": self._accuracy(result, target),
        }

    def _branch_logits(self, features: Features, size: Size) -> list[StridedLogits]:
        """Return the logits of detail, result and boundary, for labels of ``size``."""
        detail = self.p_cls_seg(self.p_head(features[0]))
        boundary = self.d_cls_seg(self.d_head(features[1]))
        return [StridedLogits(logits, size, self.align_corners) for logits in (detail, self(features), boundary)]


def boundaries_of(labels: Tensor, radius: int = 2) -> Tensor:
    """Return 1 where the label map (N, H, W) has two labels within ``radius`` pixels, and 0 elsewhere."""
    ids = labels.unsqueeze(1).float()
    highest, lowest = (F.max_pool2d(x, 2 * radius + 1, stride=1, padding=radius) for x in (ids, -ids))
    return (highest != -lowest).squeeze(1).long()
