"""Feature pyramid network of detectors: coarse, semantically strong maps are added top-down to finer ones.

Feature Pyramid Networks for Object Detection, Lin et al., 2017 (https://arxiv.org/abs/1612.03144).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import ConvModule


class DetectionFPN(Neck):
    """Feature maps, finest first -> ``num_outs`` maps (N, out_channels, ...), from the size of the finest input on.

    For a ResNet these are P2 to P5; one more than there are inputs is P6, P5 subsampled, for anchors of 512 pixels.

    Args:
        in_channels: Channels of each input.
        out_channels: Channels of the outputs.
        num_outs: Number of outputs; 1 is P2 only.
        norm_cfg: Type of the norms and its arguments, such as ``{type: GN, num_groups: 32}``; None for no norm.
    """

    conformance: ClassVar = (
        {"in_channels": [8, 16, 16], "out_channels": 8, "num_outs": 4},
        {"in_channels": [8, 16, 16], "out_channels": 8, "num_outs": 1},
    )

    def __init__(
        self,
        in_channels: Sequence[PositiveInt] = (256, 512, 1024, 2048),
        out_channels: PositiveInt = 256,
        num_outs: PositiveInt = 5,
        norm_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if num_outs > len(in_channels) + 1:
            most = len(in_channels) + 1
            raise ConfigError(Problem(f"{num_outs} outputs from {most - 1} feature maps; at most {most}", "num_outs"))
        self.in_channels, self.out_channels, self.num_outs = tuple(in_channels), out_channels, num_outs
        layers: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": None}
        self.lateral_convs = nn.ModuleList(ConvModule(width, out_channels, 1, **layers) for width in in_channels)
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, **layers)
            for _ in range(min(num_outs, len(in_channels)))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        if len(features) != len(self.in_channels):
            raise ConfigError(Problem(f"{len(features)} feature maps for {len(self.in_channels)} in_channels", "neck"))
        x = self.lateral_convs[-1](features[-1])
        merged = [x]
        for conv, feature in zip(reversed(self.lateral_convs[:-1]), reversed(features[:-1])):
            x = conv(feature) + F.interpolate(x, feature.shape[-2:], mode="nearest")
            merged.insert(0, x)
        maps = [conv(x) for conv, x in zip(self.fpn_convs, merged)]
        if self.num_outs > len(maps):
            maps.append(F.max_pool2d(maps[-1], 1, stride=2))  # subsampling: a kernel of 1 takes no maximum
        return tuple(maps)
