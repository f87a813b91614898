"""StarNet: blocks whose only nonlinearity of note is the product of two linear branches, the star operation.

    features = StarNet("s1")(torch.rand(2, 3, 512, 512))  # 24, 48, 96, 192 channels at strides 4, 8, 16, 32

Rewrite the Stars, Ma et al., 2024 (https://arxiv.org/abs/2403.19967). State-dict keys are the authors' and timm's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt, Probability
from segkernel.nn import DropPath, LayerConfig, linear_drop_path_rates, trunc_normal_init
from segplug_backbones.staged import StagedArguments, StagedBackbone, conv_norm, find_arch


@dataclass(frozen=True)
class StarNetArch:
    """A network.

    Args:
        channels: Channels of the first stage, doubled in each further one.
        depths: Blocks of the stages.
        expansion: Ratio of the hidden channels.
    """

    channels: PositiveInt
    depths: Sequence[PositiveInt]
    expansion: PositiveInt = 4


ARCHS = {
    "s1": StarNetArch(24, (2, 2, 8, 3)),
    "s2": StarNetArch(32, (1, 2, 6, 2)),
    "s3": StarNetArch(32, (2, 2, 8, 4)),
    "s4": StarNetArch(32, (3, 3, 12, 5)),
    "s050": StarNetArch(16, (1, 1, 3, 1), 3),
    "s100": StarNetArch(20, (1, 2, 4, 1), 4),
    "s150": StarNetArch(24, (1, 2, 4, 2), 3),
}
"""Table 7 of the paper, and its very small networks."""


class StarNet(StagedBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    Args:
        arch: The published name, or the values of a `StarNetArch`.
        in_channels: Channels of the image.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0.
        norm_cfg: Type of the norms and its arguments.
        **kwargs: See `StagedBackbone`; the maps have strides 4, 8, 16 and 32.
    """

    conformance: ClassVar = ({"arch": {"channels": 8, "depths": (1, 1, 2, 1)}},)

    def __init__(
        self,
        arch: Literal["s1", "s2", "s3", "s4", "s050", "s100", "s150"] | StarNetArch = "s1",
        in_channels: PositiveInt = 3,
        drop_path_rate: Probability = 0.0,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        **kwargs: Unpack[StagedArguments],
    ) -> None:
        net = find_arch(arch, ARCHS)
        channels = [net.channels * 2**i for i in range(len(net.depths))]
        stem = nn.Sequential(conv_norm(in_channels, 32, 3, stride=2, norm_cfg=norm_cfg), nn.ReLU6())
        rates = iter(linear_drop_path_rates(drop_path_rate, sum(net.depths)))
        stages = []
        for i, depth in enumerate(net.depths):
            downsample = conv_norm(channels[i - 1] if i else 32, channels[i], 3, stride=2, norm_cfg=norm_cfg)
            blocks = (StarBlock(channels[i], net.expansion, next(rates), norm_cfg) for _ in range(depth))
            stages.append(nn.Sequential(downsample, *blocks))
        super().__init__(stem, stages, channels, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                trunc_normal_init(module)


class StarBlock(nn.Module):
    """Depthwise convolution, product of two expansions, projection, depthwise convolution; figure 3 of the paper.

    (N, channels, H, W) -> the same shape, with a residual connection.
    """

    def __init__(self, channels: int, expansion: int, drop_path_rate: float, norm_cfg: LayerConfig) -> None:
        super().__init__()
        hidden = expansion * channels
        self.dwconv = conv_norm(channels, channels, 7, groups=channels, norm_cfg=norm_cfg)
        self.f1 = conv_norm(channels, hidden, 1)
        self.f2 = conv_norm(channels, hidden, 1)
        self.g = conv_norm(hidden, channels, 1, norm_cfg=norm_cfg)
        self.dwconv2 = conv_norm(channels, channels, 7, groups=channels)
        self.act = nn.ReLU6()
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x)
        y = self.act(self.f1(y)) * self.f2(y)
        return x + self.drop_path(self.dwconv2(self.g(y)))
