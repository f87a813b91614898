"""ResNeXt: ResNet with grouped 3x3 convolutions.

    backbone = ResNeXt(50, groups=32, base_width=4)  # ResNeXt-50 32x4d

Aggregated Residual Transformations for Deep Neural Networks, Xie et al., 2017 (https://arxiv.org/abs/1611.05431).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segplug_backbones.resnet import VARIANTS, PlainResNetArguments, ResNet, Variants


class ResNeXt(ResNet):
    """`ResNet` with grouped convolutions; the maps have the same channels and strides.

    Args:
        depth: 50, 101 or 152.
        groups: Groups of the 3x3 convolutions, the paper's cardinality; 1 is `ResNet`.
        base_width: Channels of each group in the first stage, doubled in each further one.
    """

    variants: ClassVar[Variants] = {depth: VARIANTS[depth] for depth in (50, 101, 152)}
    conformance: ClassVar[Any] = {"depth": 50, "groups": 4, "base_width": 4, "base_channels": 8, "stem_channels": 8}

    def __init__(
        self,
        depth: Literal[50, 101, 152],
        groups: PositiveInt = 1,
        base_width: PositiveInt = 4,
        **kwargs: Unpack[PlainResNetArguments],
    ) -> None:
        base_channels = kwargs.get("base_channels", 64)
        # Before the constructor of the base, which builds the blocks.
        self.block_options = {"groups": groups, "base_width": base_width, "base_channels": base_channels}
        super().__init__(depth, **kwargs)
