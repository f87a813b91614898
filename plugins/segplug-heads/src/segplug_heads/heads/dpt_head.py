"""DPT: tokens of a vision transformer, reassembled into a pyramid of feature maps and fused from coarse to fine.

Vision Transformers for Dense Prediction, Ranftl, Bochkovskiy and Koltun, 2021 (https://arxiv.org/abs/2103.13413).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, HeadArguments, LayerConfig, nchw_to_nlc, nlc_to_nchw, resize
from segkernel.nn.decode_head import InputTransform

Readout = Literal["ignore", "add", "project"]


class ReassembleBlocks(nn.Module):
    """Four (map, class token) pairs, (N, in_channels, h, w) and (N, in_channels) -> a pyramid of four maps.

    Map i is (N, out_channels[i], ...), at 4, 2, 1 and 1/2 times the size of the given ones.

    Args:
        in_channels: Channels of maps and tokens.
        out_channels: Channels of each map of the pyramid, finest first.
        readout_type: Use of the class token: ``ignore`` it, ``add`` it to every patch, or concatenate it
            with every patch and ``project``.
        feature_stride: 16 has the factors above; with 8 or 32, all are half or twice as large.
    """

    def __init__(
        self, in_channels: int, out_channels: Sequence[int], readout_type: Readout, feature_stride: int = 16
    ) -> None:
        super().__init__()
        self.readout_type = readout_type
        self.projects = nn.ModuleList(ConvModule(in_channels, width, 1, act_cfg=None) for width in out_channels)
        # Resample_s of the paper's Reassemble operation, to strides of 4, 8, 16 and 32.
        self.resize_layers = nn.ModuleList(
            _resample(width, feature_stride, stride) for width, stride in zip(out_channels, (4, 8, 16, 32), strict=True)
        )
        if readout_type == "project":
            self.readout_projects = nn.ModuleList(
                nn.Sequential(nn.Linear(2 * in_channels, in_channels), nn.GELU()) for _ in out_channels
            )

    def forward(self, features: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
        maps = [self._read(i, x, cls_token) for i, (x, cls_token) in enumerate(features)]
        steps = zip(self.projects, self.resize_layers, maps, strict=True)
        return [resample(project(x)) for project, resample, x in steps]

    def pairs(self, features: Features) -> list[tuple[Tensor, Tensor | None]]:
        """Return maps, or pairs of a map and a class token, as pairs.

        Raises:
            ConfigError: Class tokens are read, but there are none.
        """
        if self.readout_type != "ignore" and any(isinstance(feature, Tensor) for feature in features):
            message = "the backbone returns maps without the class token"
            raise ConfigError(Problem(message, "readout_type", hint="set output_cls_token in the backbone"))
        return [(feature, None) if isinstance(feature, Tensor) else feature for feature in features]

    def _read(self, index: int, x: Tensor, cls_token: Tensor | None) -> Tensor:
        """Fuse the class token with the map: (N, in_channels, h, w) -> the same shape."""
        if cls_token is None or self.readout_type == "ignore":
            return x
        if self.readout_type == "add":
            return x + cls_token[:, :, None, None]
        patches = nchw_to_nlc(x)
        # Read_proj concatenates the patch first, then the readout token.
        pairs = torch.cat([patches, cls_token.unsqueeze(1).expand_as(patches)], -1)
        return nlc_to_nchw(self.readout_projects[index](pairs), (x.shape[2], x.shape[3]))


class ResidualUnit(nn.Module):
    """Two pre-activation 3x3 convolutions with a residual connection: (N, C, h, w) -> the same shape."""

    def __init__(self, channels: int, act_cfg: LayerConfig | None, norm_cfg: LayerConfig | None, bias: bool) -> None:
        super().__init__()
        self.conv1 = _preactivated_conv(channels, act_cfg, norm_cfg, bias)
        self.conv2 = _preactivated_conv(channels, act_cfg, norm_cfg, bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class FeatureFusion(nn.Module):
    """The fused coarser maps (N, C, h, w) and the next finer map, of about that size -> (N, C, 2 h, 2 w), or ``size``.

    Args:
        channels: C.
        act_cfg: Type of the activations.
        norm_cfg: Type of the norms.
        coarsest: Whether this is the first fusion, which has no finer map to add.
        bias: Whether the convolutions of the residual units have a bias.
    """

    def __init__(
        self,
        channels: int,
        act_cfg: LayerConfig | None,
        norm_cfg: LayerConfig | None,
        coarsest: bool,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.project = ConvModule(channels, channels, 1, act_cfg=None)
        self.res_conv_unit1 = None if coarsest else ResidualUnit(channels, act_cfg, norm_cfg, bias)
        self.res_conv_unit2 = ResidualUnit(channels, act_cfg, norm_cfg, bias)

    def forward(self, x: Tensor, finer: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor:
        if self.res_conv_unit1 is not None:
            x = self.res_conv_unit1(x) if finer is None else x + self.res_conv_unit1(resize(finer, x.shape[2:]))
        factor = 2 if size is None else None
        return self.project(resize(self.res_conv_unit2(x), size, factor, align_corners=True))


class DPTHead(DecodeHead):
    """Four (map, class token) pairs of one stride -> logits (N, out_channels, 8 h, 8 w).

    `VisionTransformer` gives such pairs with ``output_cls_token``; maps alone are enough for ``readout_type: ignore``.

    Args:
        embed_dims: Channels of the maps and tokens.
        post_process_channels: Channels of the four maps of the pyramid, finest first.
        readout_type: Use of the class token: ``ignore`` it, ``add`` it to every patch, or concatenate it
            with every patch and ``project``.
        patch_size: Patch size of the backbone in pixels; not used, accepted for existing configs.
        expand_channels: Multiply the four ``post_process_channels`` by 1, 2, 4 and 8.
        act_cfg: Type of the activations.
        norm_cfg: Type of the norms.
        conv_cfg: Not used, accepted as by every decode head.
        input_transform: Must be ``multiple_select``.
        residual_bias: The convolutions of the residual units have a bias in place of norms, as in the authors' models
            without norms.
        upsample_logits: Double the size of the logits, with ``align_corners``, as the authors do.
        feature_stride: The pyramid's maps have 4, 2, 1 and 1/2 times the size of maps of stride 16; half or twice as
            much for 8 or 32.
        refine_coarsest: A residual unit on the coarsest map before its fusion, as segmentation_models_pytorch has it.

    Raises:
        ConfigError: There are not four maps.
    """

    conformance: ClassVar = {
        "in_channels": [8] * 4, "in_index": [0, 1, 2, 3], "input_transform": "multiple_select", "channels": 8,
        "num_classes": 4, "embed_dims": 8, "post_process_channels": [4, 8, 8, 12],
    }  # fmt: skip
    conformance_inputs: ClassVar = {"features": [(8, 16)] * 4}

    def __init__(
        self,
        embed_dims: PositiveInt = 768,
        post_process_channels: Sequence[PositiveInt] = (96, 192, 384, 768),
        readout_type: Readout = "ignore",
        patch_size: PositiveInt = 16,
        expand_channels: bool = False,
        act_cfg: LayerConfig | None = {"type": "ReLU"},  # noqa: B006  never changed
        norm_cfg: LayerConfig | None = {"type": "BN"},  # noqa: B006  never changed
        conv_cfg: LayerConfig | None = None,
        input_transform: InputTransform | None = None,
        residual_bias: bool = False,
        upsample_logits: bool = False,
        feature_stride: Literal[8, 16, 32] = 16,
        refine_coarsest: bool = False,
        **kwargs: Unpack[HeadArguments],
    ) -> None:
        super().__init__(
            conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg, input_transform=input_transform, **kwargs
        )
        if self.input_transform != "multiple_select" or len(self.in_channels) != 4:
            raise ConfigError(
                Problem("four maps are needed", "in_index", hint="set input_transform to multiple_select")
            )
        if len(post_process_channels) != 4:
            raise ConfigError(Problem(f"{len(post_process_channels)} numbers for four maps", "post_process_channels"))
        widths = [width * 2**i if expand_channels else width for i, width in enumerate(post_process_channels)]
        self.patch_size = patch_size
        self.reassemble_blocks = ReassembleBlocks(embed_dims, widths, readout_type, feature_stride)
        self.convs = nn.ModuleList(
            ConvModule(width, self.channels, 3, padding=1, act_cfg=None, bias=False) for width in widths
        )
        residual_norm = None if residual_bias else norm_cfg
        self.fusion_blocks = nn.ModuleList(
            FeatureFusion(
                self.channels, act_cfg, residual_norm, coarsest=i == 0 and not refine_coarsest, bias=residual_bias
            )
            for i in range(4)
        )
        self.upsample_logits = upsample_logits
        self.project = ConvModule(self.channels, self.channels, 3, padding=1, norm_cfg=norm_cfg)

    def forward_feature(self, features: Features) -> Tensor:
        pairs = self.reassemble_blocks.pairs(self.select(features))
        pyramid = [conv(x) for conv, x in zip(self.convs, self.reassemble_blocks(pairs), strict=True)]
        coarsest, *finer = reversed(pyramid)
        x = self.fusion_blocks[0](coarsest)
        for fuse, feature in zip(self.fusion_blocks[1:], finer, strict=True):
            x = fuse(x, feature)
        return self.project(x)

    def forward(self, features: Features) -> Tensor:
        logits = super().forward(features)
        return resize(logits, scale_factor=2, align_corners=True) if self.upsample_logits else logits


def _resample(channels: int, stride: int, new_stride: int) -> nn.Module:
    """Return the layer that takes a map of one stride to another."""
    if stride == new_stride:
        return nn.Identity()
    if stride > new_stride:
        factor = stride // new_stride
        return nn.ConvTranspose2d(channels, channels, factor, stride=factor)
    return nn.Conv2d(channels, channels, 3, stride=new_stride // stride, padding=1)


def _preactivated_conv(
    channels: int, act_cfg: LayerConfig | None, norm_cfg: LayerConfig | None, bias: bool
) -> ConvModule:
    return ConvModule(
        channels,
        channels,
        3,
        padding=1,
        bias=bias,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
        inplace=False,  # the residual connection still needs the input
        order=("act", "conv", "norm"),
    )
