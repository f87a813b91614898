"""ResNeXt: residual blocks whose 3x3 convolution works on groups of channels.

    backbone = ResNeXt(50, groups=32, base_width=4)  # ResNeXt-50 32x4d

Aggregated Residual Transformations for Deep Neural Networks, Xie et al., 2017 (https://arxiv.org/abs/1611.05431).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from typing_extensions import Unpack

from segplug_backbones.resnet import VARIANTS, PlainResNetArguments, ResNet, Variants


class ResNeXt(ResNet):
    """`ResNet` with groups; the maps have the same channels and strides.

    Args:
        depth: 50, 101 or 152.
        groups: Groups of channels; 1 is `ResNet`.
        base_width: Channels of each group in a first stage of 64 channels; wider stages have more.
    """

    variants: ClassVar[Variants] = {depth: VARIANTS[depth] for depth in (50, 101, 152)}
    conformance: ClassVar = {"depth": 50, "groups": 4, "base_width": 4, "base_channels": 8, "stem_channels": 8}

    def __init__(
        self,
        depth: Literal[50, 101, 152],
        groups: int = 1,
        base_width: int = 4,
        **kwargs: Unpack[PlainResNetArguments],
    ) -> None:
        base_channels = kwargs.get("base_channels", 64)
        self.block_options = {"groups": groups, "base_width": base_width, "base_channels": base_channels}
        super().__init__(depth, **kwargs)
