"""DDRNet: a branch of high resolution and a deep one of low resolution, fused twice on the way.

    fine, fused = DDRNet(channels=32)(torch.rand(2, 3, 512, 1024))  # 64 and 128 channels, both at stride 8

``channels`` is 32 in DDRNet-23-slim and 64 in DDRNet-23.

Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes, Hong et al.,
2021 (https://arxiv.org/abs/2101.06085).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Backbone
from segkernel.nn import ConvModule, build_norm, resize
from segplug_backbones.dual_resolution import DAPPM, BasicBlock, Bottleneck, StageBuilder


class DDRNet(Backbone):
    """Images (N, in_channels, H, W) to the spatial branch after its second stage and the fused map, both at stride 8.

    They have 2 and 4 times ``channels`` channels; the first one is for an auxiliary head.

    Args:
        in_channels: Channels of the image.
        channels: Width of the stem.
        ppm_channels: Channels of each scale of the pyramid pooling.
        align_corners: As in `segkernel.nn.resize`.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
    """

    conformance: ClassVar = {"channels": 4, "ppm_channels": 4}

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        channels: PositiveInt = 32,
        ppm_channels: PositiveInt = 128,
        align_corners: bool = False,
        norm_cfg: Mapping[str, Any] = {"type": "BN", "requires_grad": True},
        act_cfg: Mapping[str, Any] = {"type": "ReLU", "inplace": True},
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        build = StageBuilder(partial(_shortcut, norm_cfg), norm_cfg, act_cfg)
        double, fourfold, eightfold = 2 * channels, 4 * channels, 8 * channels
        self.stem = build.stem(in_channels, channels, 2)
        self.relu = nn.ReLU()
        self.context_branch_layers = nn.ModuleList([
            build.stage(BasicBlock, double, fourfold, 2, stride=2),
            build.stage(BasicBlock, fourfold, eightfold, 2, stride=2),
            build.stage(Bottleneck, eightfold, eightfold, 1, stride=2),
        ])  # fmt: skip
        self.spatial_branch_layers = nn.ModuleList([
            build.stage(BasicBlock, double, double, 2),
            build.stage(BasicBlock, double, double, 2),
            build.stage(Bottleneck, double, double, 1),
        ])  # fmt: skip
        self.compression_1 = ConvModule(fourfold, double, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.down_1 = ConvModule(double, fourfold, 3, stride=2, padding=1, norm_cfg=norm_cfg, act_cfg=None)
        self.compression_2 = ConvModule(eightfold, double, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.down_2 = nn.Sequential(
            ConvModule(double, fourfold, 3, stride=2, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg),
            ConvModule(fourfold, eightfold, 3, stride=2, padding=1, norm_cfg=norm_cfg, act_cfg=None),
        )
        self.spp = DAPPM(2 * eightfold, ppm_channels, fourfold, norm_cfg, act_cfg)
        self.channels, self.strides = (double, fourfold), (8, 8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return two maps, (N, channels[i], ~H/8, ~W/8)."""
        x = self.stem(images)
        context, spatial = self.context_branch_layers[0](x), self.spatial_branch_layers[0](x)
        # `halfway` goes to the auxiliary head before its ReLU, as in MMSegmentation.
        context, halfway = self._bilateral_fusion(context, spatial, self.down_1, self.compression_1)

        context = self.context_branch_layers[1](self.relu(context))
        spatial = self.spatial_branch_layers[1](self.relu(halfway))
        context, spatial = self._bilateral_fusion(context, spatial, self.down_2, self.compression_2)

        context = self.spp(self.context_branch_layers[2](self.relu(context)))
        spatial = self.spatial_branch_layers[2](self.relu(spatial))
        return halfway, spatial + self._upsample(context, spatial)

    def _bilateral_fusion(
        self, context: Tensor, spatial: Tensor, down: nn.Module, compression: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Return each branch plus the other one at its resolution, equation 1 of the paper."""
        upsampled = self._upsample(compression(self.relu(context)), spatial)
        return context + down(self.relu(spatial)), spatial + upsampled

    def _upsample(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], align_corners=self.align_corners)


def _shortcut(norm_cfg: Mapping[str, Any], in_channels: int, channels: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
    return nn.Sequential(conv, build_norm(norm_cfg, channels)[1])
