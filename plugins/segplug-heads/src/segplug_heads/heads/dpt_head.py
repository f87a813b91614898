"""DPT: layers of a vision transformer reassembled into a pyramid, and fused from coarse to fine.

Ranftl, Bochkovskiy and Koltun, Vision Transformers for Dense Prediction, 2021 (https://arxiv.org/abs/2103.13413).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, LayerConfig, nchw_to_nlc, nlc_to_nchw, resize

Readout = Literal["ignore", "add", "project"]


class ReassembleBlocks(nn.Module):
    """Four (map, class token) pairs, (N, in_channels, h, w) and (N, in_channels) -> maps of ``out_channels``.

    These have 4, 2, 1 and 1/2 times the size of the given ones.

    Args:
        readout_type: What becomes of the class token: it is ignored, added to every patch, or joined with every patch
            and projected.
    """

    def __init__(self, in_channels: int, out_channels: Sequence[int], readout_type: Readout) -> None:
        super().__init__()
        self.readout_type = readout_type
        self.projects = nn.ModuleList(ConvModule(in_channels, width, 1, act_cfg=None) for width in out_channels)
        first, second, _, last = out_channels
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(last, last, 3, stride=2, padding=1),
            ]
        )
        if readout_type == "project":
            self.readout_projects = nn.ModuleList(
                nn.Sequential(nn.Linear(2 * in_channels, in_channels), nn.GELU()) for _ in out_channels
            )

    def forward(self, features: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        maps = [self._read_out(i, x, token) for i, (x, token) in enumerate(features)]
        steps = zip(self.projects, self.resize_layers, maps, strict=True)
        return [enlarge(project(x)) for project, enlarge, x in steps]

    def _read_out(self, index: int, x: Tensor, token: Tensor) -> Tensor:
        if self.readout_type == "ignore":
            return x
        if self.readout_type == "add":
            return x + token[:, :, None, None]
        tokens = nchw_to_nlc(x)
        joined = torch.cat([tokens, token.unsqueeze(1).expand_as(tokens)], -1)
        return nlc_to_nchw(self.readout_projects[index](joined), (x.shape[2], x.shape[3]))


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions, each after an activation, plus the input: (N, C, h, w) -> the same."""

    def __init__(self, channels: int, act_cfg: LayerConfig | None, norm_cfg: LayerConfig | None) -> None:
        super().__init__()
        layers = {"padding": 1, "bias": False, "act_cfg": act_cfg, "norm_cfg": norm_cfg, "inplace": False}
        self.conv1 = ConvModule(channels, channels, 3, order=("act", "conv", "norm"), **layers)
        self.conv2 = ConvModule(channels, channels, 3, order=("act", "conv", "norm"), **layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class FeatureFusion(nn.Module):
    """What came from below (N, C, h, w), plus a finer map of about that size when given -> (N, C, 2 h, 2 w)."""

    def __init__(
        self, channels: int, act_cfg: LayerConfig | None, norm_cfg: LayerConfig | None, coarsest: bool
    ) -> None:
        super().__init__()
        self.project = ConvModule(channels, channels, 1, act_cfg=None)
        self.res_conv_unit1 = None if coarsest else ResidualUnit(channels, act_cfg, norm_cfg)
        self.res_conv_unit2 = ResidualUnit(channels, act_cfg, norm_cfg)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        if self.res_conv_unit1 is not None and finer is not None:
            x = x + self.res_conv_unit1(resize(finer, x.shape[2:]))
        return self.project(resize(self.res_conv_unit2(x), scale_factor=2, align_corners=True))


class DPTHead(DecodeHead):
    """Four (map, class token) pairs of one stride -> (N, out_channels, 8 h, 8 w).

    `VisionTransformer` gives them with ``output_cls_token``. With ``readout_type: ignore`` maps alone will do.

    Args:
        embed_dims: Channels of the maps and tokens.
        post_process_channels: Of the four maps of the pyramid, the finest first.
        readout_type: What becomes of the class token: ``ignore``, ``add`` or ``project``.
        patch_size: Of the backbone; kept for those who read it.
        expand_channels: Double the channels of the pyramid's second map, and again those of the third and fourth.
        act_cfg: Kind of activation.
        norm_cfg: Kind of norm.

    Raises:
        ConfigError: When there are not four maps.
    """

    conformance: ClassVar = {
        "in_channels": [8] * 4, "in_index": [0, 1, 2, 3], "input_transform": "multiple_select", "channels": 8,
        "num_classes": 4, "embed_dims": 8, "post_process_channels": [4, 8, 8, 12],
    }  # fmt: skip
    conformance_inputs: ClassVar = {"features": [(8, 16)] * 4}

    def __init__(
        self,
        embed_dims: int = 768,
        post_process_channels: Sequence[int] = (96, 192, 384, 768),
        readout_type: Readout = "ignore",
        patch_size: int = 16,
        expand_channels: bool = False,
        act_cfg: Mapping[str, Any] | None = {"type": "ReLU"},
        norm_cfg: Mapping[str, Any] | None = {"type": "BN"},
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(act_cfg=act_cfg, norm_cfg=norm_cfg, **kwargs)
        if self.input_transform != "multiple_select" or len(self.in_channels) != 4:
            raise ConfigError(
                Problem("four maps are needed", "in_index", hint="set input_transform to multiple_select")
            )
        if len(post_process_channels) != 4:
            raise ConfigError(Problem(f"{len(post_process_channels)} numbers for four maps", "post_process_channels"))
        widths = [width * 2**i if expand_channels else width for i, width in enumerate(post_process_channels)]
        self.patch_size = patch_size
        self.reassemble_blocks = ReassembleBlocks(embed_dims, widths, readout_type)
        self.convs = nn.ModuleList(
            ConvModule(width, self.channels, 3, padding=1, act_cfg=None, bias=False) for width in widths
        )
        self.fusion_blocks = nn.ModuleList(
            FeatureFusion(self.channels, act_cfg, norm_cfg, coarsest=i == 0) for i in range(4)
        )
        self.project = ConvModule(self.channels, self.channels, 3, padding=1, norm_cfg=norm_cfg)

    def forward_feature(self, features: Features) -> Tensor:
        pairs = [self._pair(feature) for feature in self.select(features)]
        maps = [conv(x) for conv, x in zip(self.convs, self.reassemble_blocks(pairs), strict=True)]
        x: Tensor | None = None
        for fuse, finer in zip(self.fusion_blocks, reversed(maps), strict=True):
            x = fuse(finer) if x is None else fuse(x, finer)
        return self.project(x)

    def _pair(self, feature: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if not isinstance(feature, Tensor):
            return feature
        if self.reassemble_blocks.readout_type != "ignore":
            message = "the backbone gives maps without the class token"
            raise ConfigError(Problem(message, "readout_type", hint="set output_cls_token in the backbone"))
        return feature, feature.mean((2, 3))
