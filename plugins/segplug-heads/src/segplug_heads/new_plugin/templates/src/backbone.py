"""A small residual backbone: a stem at stride 4, and stages that each halve the size of the one before."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Backbone
from segkernel.nn import ConvModule, LayerConfig


class MyModelBackbone(Backbone):
    """Images (N, in_channels, H, W) to one map (N, widths[i], H / strides[i], W / strides[i]) per stage.

    Args:
        in_channels: Channels of the images.
        widths: Channels of each stage.
        depth: Residual blocks per stage.
        norm_cfg: Norm of all convolutions.
        pretrained: File or address of weights, which are loaded after the model is built.
    """

    conformance: ClassVar = {"widths": (8, 16)}

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        widths: tuple[PositiveInt, ...] = (32, 64, 128, 256),
        depth: PositiveInt = 2,
        norm_cfg: LayerConfig = {"type": "BN"},  # noqa: B006  never changed
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.strides = tuple(widths), tuple(4 * 2**i for i in range(len(widths)))
        self.pretrained = pretrained
        self.stem = ConvModule(in_channels, widths[0], 3, stride=2, padding=1, norm_cfg=norm_cfg)
        self.stages = nn.ModuleList()
        for before, width in zip((widths[0], *widths), widths):
            downsample = ConvModule(before, width, 3, stride=2, padding=1, norm_cfg=norm_cfg)
            self.stages.append(nn.Sequential(downsample, *(ResidualBlock(width, norm_cfg) for _ in range(depth))))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class ResidualBlock(nn.Module):
    """Two convolutions and a residual connection; shapes (N, channels, H, W) are kept."""

    def __init__(self, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg)
        self.conv2 = ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.conv2(self.conv1(x))).relu()
