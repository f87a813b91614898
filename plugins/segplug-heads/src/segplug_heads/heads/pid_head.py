"""PIDNet's head: a classifier of the fused map, and for training one of detail and one of borders.

Xu et al., PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers, 2023.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Features
from segkernel.labels import Task
from segkernel.nn import (
    ConvModule,
    DecodeHead,
    DecodeHeadArguments,
    LayerConfig,
    StridedLogits,
    build_activation,
    build_norm,
)
from segkernel.sample import Targets

BORDER = 0.8
"""Probability of a border from which a pixel counts for the last loss."""


class PIDBranch(nn.Module):
    """(N, in_channels, h, w) -> (N, channels, h, w), normalised and activated before and after its convolution."""

    def __init__(self, in_channels: int, channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        super().__init__()
        order, layers = ("norm", "act", "conv"), {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.conv = ConvModule(in_channels, channels, 3, padding=1, order=order, **layers)
        self.norm = build_norm(norm_cfg, channels)[1]
        self.act = build_activation(act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class PIDHead(DecodeHead):
    """Maps of detail and borders, of ``in_channels`` / 2 channels, and the fused one -> (N, out_channels, h, w) of it.

    Losses are ``loss_sem_p`` of the detail map's scores, ``loss_sem_i`` of the scores, ``loss_bd`` of the borders,
    ``loss_sem_bd`` of the scores where a border was found, and ``acc_seg``.

    The target ``edge`` (N, H, W) is 1 on borders; without it, borders of four pixels are found in the labels.

    Args:
        in_channels: Of the fused map, a multiple of 4.
        channels: Before the classifiers of detail and of the fused map.
        num_classes: Number of classes.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        loss_decode: Four, in the order above.

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
        in_channels: int,
        channels: int,
        num_classes: int,
        norm_cfg: LayerConfig = {"type": "BN"},  # noqa: B006  never changed
        act_cfg: LayerConfig = {"type": "ReLU", "inplace": True},  # noqa: B006  never changed
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(in_channels, channels, num_classes=num_classes, norm_cfg=norm_cfg, act_cfg=act_cfg, **kwargs)
        if len(self._losses()) != 4:
            message = f"{len(self._losses())} losses, four are needed: of detail, result, borders, result at borders"
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
        edge = targets["edge"] if "edge" in targets else borders_of(target)
        options = {"weight": targets.get("weight"), "ignore_index": self.ignore_index}
        detail, result, borders = self._all_logits(features, target.shape[1:])
        at_border = torch.where(borders.full.squeeze(1).sigmoid() > BORDER, target, self.ignore_index)
        of_detail, of_result, of_borders, of_result_at_borders = self._losses()
        return result.small, {
            "loss_sem_p": detail.loss(of_detail, target, **options),
            "loss_sem_i": result.loss(of_result, target, **options),
            "loss_bd": borders.loss(of_borders, edge, **options),
            "loss_sem_bd": result.loss(of_result_at_borders, at_border, **options),
            "acc_seg": self._accuracy(result, target),
        }

    def _all_logits(self, features: Features, size: torch.Size) -> list[StridedLogits]:
        """Return the logits of detail, result and borders, for labels of this size."""
        detail, borders = self.p_head(features[0]), self.d_head(features[1])
        every = self.p_cls_seg(detail), self(features), self.d_cls_seg(borders)
        return [StridedLogits(logits, size, self.align_corners) for logits in every]


def borders_of(labels: Tensor, radius: int = 2) -> Tensor:
    """Return 1 where the label map (N, H, W) has two labels within ``radius`` pixels, else 0."""
    ids = labels.unsqueeze(1).float()
    highest, lowest = (F.max_pool2d(x, 2 * radius + 1, stride=1, padding=radius) for x in (ids, -ids))
    return (highest != -lowest).squeeze(1).long()
