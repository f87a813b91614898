"""The depth head of DPT, and that of Depth Anything: tokens of a vision transformer to a map of depths.

Vision Transformers for Dense Prediction, Ranftl, Bochkovskiy and Koltun, 2021 (https://arxiv.org/abs/2103.13413);
Depth Anything V2, Yang et al., 2024 (https://arxiv.org/abs/2406.09414).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from segkernel.annotations import Positive, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.geometry import Size
from segkernel.interfaces.model import Features, Head, Loss
from segkernel.nn import ConvModule, LayerConfig, StridedLogits, resize, sum_by_name
from segkernel.sample import Targets
from segplug_heads.heads.dpt_head import FeatureFusion, Readout, ReassembleBlocks
from segplug_heads.losses.silog_loss import SiLogLoss
from segplug_heads.outputs import PixelValues


class DPTDepthHead(Head):
    """Four (map, class token) pairs of one stride -> depths (N, 1, 16 h, 16 w), or (N, 1, p h, p w) in whole patches.

    A depth is a number of at least 0: ``targets["depth"]``, (N, H, W), is 0 where nothing was measured. Published
    models for relative depth predict its inverse, up to a scale and a shift.

    Args:
        in_channels: Channels of the maps and tokens.
        channels: Channels of the fused maps.
        post_process_channels: Channels of the four maps of the pyramid, finest first.
        readout_type: Use of the class token: ``ignore`` it, ``add`` it to every patch, or concatenate it with every
            patch and ``project``.
        head_channels: Channels before the last convolution.
        patch_size: Patch size p of the backbone in pixels, with ``whole_patches``.
        whole_patches: Maps are resized to the size of the next finer one, and depths to that of the patches, as in
            Depth Anything; DPT doubles each.
        projection: Add a convolution before the head.
        residual_norm_cfg: Norms of the residual units; None is a bias in their convolutions.
        activation: Of the depths: ``relu``, or ``sigmoid`` of the range that ``max_depth`` gives.
        max_depth: Factor of the activation.
        in_index: The maps to take; all for None.
        align_corners: As in `segkernel.nn.resize`, for resizing depths to the annotations.
        loss_decode: One loss or several; None is `SiLogLoss`. Losses of one name are added.

    Raises:
        ConfigError: There are not four maps.
    """

    conformance: ClassVar = {
        "in_channels": 8,
        "channels": 8,
        "post_process_channels": [4, 8, 8, 12],
        "head_channels": 4,
        "readout_type": "ignore",
    }
    conformance_exceptions: ClassVar = {"classes": "depths have no classes"}
    conformance_inputs: ClassVar = {"features": [(8, 16)] * 4}

    def __init__(
        self,
        in_channels: PositiveInt = 768,
        channels: PositiveInt = 256,
        post_process_channels: Sequence[PositiveInt] = (96, 192, 384, 768),
        readout_type: Readout = "project",
        head_channels: PositiveInt = 32,
        patch_size: PositiveInt = 16,
        whole_patches: bool = False,
        projection: bool = False,
        residual_norm_cfg: LayerConfig | None = None,
        activation: Literal["relu", "sigmoid"] = "relu",
        max_depth: Positive = 1.0,
        in_index: Sequence[int] | None = None,
        align_corners: bool = False,
        loss_decode: Loss | Sequence[Loss] | None = None,
    ) -> None:
        super().__init__()
        if len(post_process_channels) != 4:
            raise ConfigError(Problem(f"{len(post_process_channels)} numbers for four maps", "post_process_channels"))
        self.patch_size, self.whole_patches = patch_size, whole_patches
        self.activation, self.max_depth, self.in_index = activation, max_depth, in_index
        self.align_corners = align_corners
        self.output = PixelValues(align_corners=align_corners, interpolation="bicubic")
        several = loss_decode if isinstance(loss_decode, Sequence) else [loss_decode or SiLogLoss()]
        self.loss_decode = nn.ModuleList(several)
        self.reassemble_blocks = ReassembleBlocks(in_channels, post_process_channels, readout_type)
        self.convs = nn.ModuleList(
            ConvModule(width, channels, 3, padding=1, act_cfg=None, bias=False) for width in post_process_channels
        )
        bias = residual_norm_cfg is None
        self.fusion_blocks = nn.ModuleList(
            FeatureFusion(channels, {"type": "ReLU"}, residual_norm_cfg, coarsest=i == 0, bias=bias) for i in range(4)
        )
        self.project = ConvModule(channels, channels, 3, padding=1) if projection else nn.Identity()
        self.conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(channels // 2, head_channels, 3, padding=1)
        self.conv3 = nn.Conv2d(head_channels, 1, 1)

    def forward(self, features: Features) -> Tensor:
        chosen = features if self.in_index is None else [features[index] for index in self.in_index]
        if len(chosen) != 4:
            raise ConfigError(Problem(f"{len(chosen)} maps, four are needed", "in_index"))
        pairs = self.reassemble_blocks.pairs(chosen)
        rows, columns = pairs[0][0].shape[2:]
        pyramid = [conv(x) for conv, x in zip(self.convs, self.reassemble_blocks(pairs), strict=True)]
        x = self.conv1(self.project(self._fuse(pyramid)))
        size = (rows * self.patch_size, columns * self.patch_size) if self.whole_patches else None
        x = self.conv2(resize(x, size, None if size else 2, align_corners=True)).relu()
        depths = self.conv3(x)
        return self.max_depth * (depths.sigmoid() if self.activation == "sigmoid" else depths.relu())

    def _fuse(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return the fused maps, (N, channels, 8 h, 8 w)."""
        first, *finer = reversed(pyramid)
        sizes = [map_.shape[2:] if self.whole_patches else None for map_ in finer]
        x = self.fusion_blocks[0](first, size=sizes[0])
        for fuse, feature, size in zip(self.fusion_blocks[1:], finer, [*sizes[1:], None], strict=True):
            x = fuse(x, feature, size)
        return x

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return self.single_pass(features, targets)[1]

    def single_pass(
        self, features: Features, targets: Targets, size: Size | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        depths, truth = self(features), targets["depth"]
        strided = StridedLogits(depths, truth.shape[-2:], self.align_corners)
        losses = [loss for loss in self.loss_decode if isinstance(loss, Loss)]
        return depths, sum_by_name((loss.name, strided.loss(loss, truth)) for loss in losses)
