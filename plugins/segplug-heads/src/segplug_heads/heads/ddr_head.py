"""DDRNet's head: a classifier of the fused map, and for training one of the high-resolution branch.

Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes, Hong et al., 2021
(https://arxiv.org/abs/2101.06085).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
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


class DDRHead(DecodeHead):
    """Maps of ``in_channels`` / 2 and ``in_channels`` channels -> logits (N, out_channels, h, w) of the second.

    The losses are ``loss_context`` of these logits and ``loss_spatial`` of the first map's; ``acc_seg`` is of these.

    Args:
        in_channels: Channels of the second map, an even number.
        channels: Channels before each classifier.
        num_classes: Number of classes.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
        conv_cfg: Not used, accepted as by every decode head.
        loss_decode: Two losses: of the context logits and of the spatial ones.

    Raises:
        ConfigError: There are not two losses.
    """

    fixed_arguments = frozenset({"input_transform", "sampler"})
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass",)
    conformance: ClassVar = {
        "in_channels": 16, "channels": 8, "num_classes": 4, "loss_decode": [{"type": "OhemCrossEntropy"}] * 2
    }  # fmt: skip
    conformance_inputs: ClassVar = {"features": [(8, 8), (16, 8)]}

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
        if len(self._losses()) != 2:
            message = f"{len(self._losses())} losses, two are needed: of the context and of the spatial branch"
            raise ConfigError(Problem(message, "loss_decode"))
        self.head = _preactivated_conv(in_channels, channels, norm_cfg, act_cfg)
        # The spatial branch, features[0], has half the channels of the fused map.
        self.aux_head = _preactivated_conv(in_channels // 2, channels, norm_cfg, act_cfg)
        self.aux_cls_seg = nn.Conv2d(channels, self.out_channels, 1)

    def forward(self, features: Features) -> Tensor:
        return self.cls_seg(self.head(self.select(features)))

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return self.single_pass(features, targets)[1]

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        target = targets["seg"]
        options = {"weight": targets.get("weight"), "ignore_index": self.ignore_index}
        logits = self(features)
        context, spatial = (
            StridedLogits(x, target.shape[1:], self.align_corners)
            for x in (logits, self.aux_cls_seg(self.aux_head(features[0])))
        )
        loss_context, loss_spatial = self._losses()
        return logits, {
            "loss_context": context.loss(loss_context, target, **options),
            "loss_spatial": spatial.loss(loss_spatial, target, **options),
            "acc_seg": self._accuracy(context, target),
        }


def _preactivated_conv(in_channels: int, channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> nn.Sequential:
    """Return a 3x3 convolution with norm and activation before it and after it."""
    return nn.Sequential(
        ConvModule(
            in_channels,
            channels,
            3,
            padding=1,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            order=("norm", "act", "conv"),
        ),
        build_norm(norm_cfg, channels)[1],
        build_activation(act_cfg),
    )
