"""DDRNet's head: a classifier of the result, and for training one of the spatial branch halfway.

Hong et al., Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes, 2021.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
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


class DDRHead(DecodeHead):
    """Two maps of ``in_channels`` / 2 and ``in_channels`` channels -> (N, out_channels, h, w) of the second.

    Losses are ``loss_context``, that of the scores, ``loss_spatial``, that of the first map's, and ``acc_seg``.

    Args:
        in_channels: Of the second map, an even number.
        channels: Before each classifier.
        num_classes: Number of classes.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        loss_decode: Two, of the scores and of the first map's scores.

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
        in_channels: int,
        channels: int,
        num_classes: int,
        norm_cfg: LayerConfig = {"type": "BN"},  # noqa: B006  never changed
        act_cfg: LayerConfig = {"type": "ReLU", "inplace": True},  # noqa: B006  never changed
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(in_channels, channels, num_classes=num_classes, norm_cfg=norm_cfg, act_cfg=act_cfg, **kwargs)
        if len(self._losses()) != 2:
            message = f"{len(self._losses())} losses, two are needed: of the result, and of the map halfway"
            raise ConfigError(Problem(message, "loss_decode"))
        self.head, self.aux_head = self._convolution(in_channels), self._convolution(in_channels // 2)
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
        of_context, of_spatial = self._losses()
        return logits, {
            "loss_context": context.loss(of_context, target, **options),
            "loss_spatial": spatial.loss(of_spatial, target, **options),
            "acc_seg": self._accuracy(context, target),
        }

    def _convolution(self, in_channels: int) -> nn.Sequential:
        order = ("norm", "act", "conv")
        layers = {"norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        return nn.Sequential(
            ConvModule(in_channels, self.channels, 3, padding=1, order=order, **layers),
            build_norm(self.norm_cfg, self.channels)[1],
            build_activation(self.act_cfg),
        )
