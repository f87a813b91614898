"""U-Net: an encoder that halves the resolution stage by stage, and a decoder with skip connections to it.

    features = UNet()(torch.rand(2, 3, 256, 256))  # 1024, 512, 256, 128, 64 channels at strides 16, 8, 4, 2, 1

U-Net: Convolutional Networks for Biomedical Image Segmentation, Ronneberger, Fischer and Brox, 2015
(https://arxiv.org/abs/1505.04597).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    ConvModule,
    FreezableBackbone,
    LayerConfig,
    build_activation,
    build_norm,
    build_upsample,
    check_per_stage,
    checkpoint_block,
)
from segplug_backbones.pretrained import Pretrained


class DeconvModule(nn.Module):
    """Transposed convolution, norm, activation: (N, in_channels, h, w) -> (N, out_channels, h * s, w * s).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        with_cp: Activation checkpointing.
        norm_cfg: Type of the norm.
        act_cfg: Type of the activation.
        kernel_size: ``scale_factor`` plus an even number, so that the output has exactly s times the size.
        scale_factor: s.
    """

    conformance: ClassVar = {"in_channels": 8, "out_channels": 4}

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        with_cp: bool = False,
        norm_cfg: LayerConfig = {"type": "BN"},  # noqa: B006  never changed
        act_cfg: LayerConfig = {"type": "ReLU"},  # noqa: B006
        *,
        kernel_size: PositiveInt = 4,
        scale_factor: PositiveInt = 2,
    ) -> None:
        super().__init__()
        excess = kernel_size - scale_factor
        if excess < 0 or excess % 2:
            message = f"kernel_size {kernel_size} is not scale_factor {scale_factor} plus an even number"
            raise ConfigError(Problem(message, "kernel_size"))
        self.with_cp = with_cp
        self.deconv_upsamping = nn.Sequential(  # spelt like that in checkpoints
            nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride=scale_factor, padding=excess // 2),
            build_norm(norm_cfg, out_channels)[1],
            build_activation(act_cfg),
        )

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_block(self.deconv_upsamping, x, enabled=self.with_cp)


class InterpConv(nn.Module):
    """Interpolation and a convolution with norm and activation: (N, in_channels, h, w) -> (N, out_channels, 2h, 2w).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        conv_first: The convolution comes before the interpolation.
        kernel_size: Side of the convolution's kernel; 1, the default, leaves smoothing to the interpolation.
        stride: Stride of the convolution.
        padding: Padding of the convolution, in pixels on each side.
        upsample_cfg: Arguments of ``nn.Upsample``: ``size`` or ``scale_factor``, ``mode``, ``align_corners``.
    """

    conformance: ClassVar = {"in_channels": 8, "out_channels": 4}

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        with_cp: bool = False,
        norm_cfg: LayerConfig | None = {"type": "BN"},  # noqa: B006  never changed
        act_cfg: LayerConfig | None = {"type": "ReLU"},  # noqa: B006
        *,
        conv_cfg: LayerConfig | None = None,
        conv_first: bool = False,
        kernel_size: PositiveInt = 1,
        stride: PositiveInt = 1,
        padding: NonNegativeInt = 0,
        upsample_cfg: Mapping[str, Any] = {"scale_factor": 2, "mode": "bilinear", "align_corners": False},
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        conv = ConvModule(in_channels, out_channels, kernel_size, stride=stride, padding=padding, **cfgs)
        upsample = nn.Upsample(**upsample_cfg)
        self.interp_upsample = nn.Sequential(conv, upsample) if conv_first else nn.Sequential(upsample, conv)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_block(self.interp_upsample, x, enabled=self.with_cp)


class BasicConvBlock(nn.Module):
    """3x3 convolutions, the first one with the stride, the others with the dilation.

    (N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_convs: int = 2,
        stride: int = 1,
        dilation: int = 1,
        with_cp: bool = False,
        **cfgs: Any,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        first = ConvModule(in_channels, out_channels, 3, stride=stride, padding=1, **cfgs)
        others = (
            ConvModule(out_channels, out_channels, 3, padding=dilation, dilation=dilation, **cfgs)
            for _ in range(num_convs - 1)
        )
        self.convs = nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_block(self.convs, x, enabled=self.with_cp)


class UpConvBlock(nn.Module):
    """A step of the decoder: upsample the coarse map, concatenate the skip connection, convolve.

    ``skip`` (N, skip_channels, H, W) and ``x`` (N, in_channels, h, w) -> (N, out_channels, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        num_convs: int,
        dilation: int,
        with_cp: bool,
        upsample_cfg: LayerConfig | None,
        **cfgs: Any,
    ) -> None:
        super().__init__()
        # Upsampling halves the channels to those of the skip connection; hence twice as many here.
        self.conv_block = BasicConvBlock(
            2 * skip_channels, out_channels, num_convs=num_convs, dilation=dilation, with_cp=with_cp, **cfgs
        )
        if upsample_cfg is None:
            self.upsample: nn.Module = ConvModule(in_channels, skip_channels, 1, **cfgs)
        else:
            shared = {"norm_cfg": cfgs["norm_cfg"], "act_cfg": cfgs["act_cfg"], "with_cp": with_cp}
            self.upsample = build_upsample(upsample_cfg, in_channels=in_channels, out_channels=skip_channels, **shared)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        x = self.upsample(x)
        # The sizes differ if a side of the skip is odd: pad, or crop by a negative padding.
        x = F.pad(x, (0, skip.shape[3] - x.shape[3], 0, skip.shape[2] - x.shape[2]))
        return self.conv_block(torch.cat([skip, x], dim=1))


class UNet(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to the last map of the encoder and the maps of the decoder, coarsest first.

    Any image size will do: maps are padded with zeros at the bottom and right to the size of their skip connection.

    Args:
        in_channels: Channels of the image.
        base_channels: Width of the first stage, doubled by each next one.
        num_stages: Stages of the encoder; the decoder has one less.
        strides: Stride of the first convolution of each stage.
        enc_num_convs: Convolutions of each stage of the encoder.
        dec_num_convs: Convolutions of each step of the decoder.
        downsamples: Whether each stage but the first starts with max pooling; without effect if it has a stride.
        enc_dilations: Dilation of each stage of the encoder, except for its first convolution.
        dec_dilations: Dilation of each step of the decoder, except for its first convolution.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
        upsample_cfg: Upsampling of the decoder: `InterpConv` or `DeconvModule` and their arguments.
        norm_eval: Keep batch norm in evaluation mode while training.
        dcn: MMSegmentation's; must be None.
        plugins: MMSegmentation's; must be None.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.

    Raises:
        ConfigError: When arguments do not fit together.
    """

    conformance: ClassVar = (
        {"base_channels": 4, "num_stages": 5, "upsample_cfg": {"type": "InterpConv"}},
        {
            "base_channels": 4,
            "num_stages": 3,
            "strides": [1, 2, 1],
            "downsamples": [True, False],
            "enc_num_convs": [1, 2, 1],
            "dec_num_convs": [2, 1],
            "enc_dilations": [1, 2, 2],
            "dec_dilations": [1, 2],
            "upsample_cfg": {"type": "DeconvModule"},
        },
    )
    conformance_exceptions: ClassVar = {"order": "configs count the decoder's maps from the coarsest"}

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        base_channels: PositiveInt = 64,
        num_stages: PositiveInt = 5,
        strides: Sequence[PositiveInt] = (1, 1, 1, 1, 1),
        enc_num_convs: Sequence[PositiveInt] = (2, 2, 2, 2, 2),
        dec_num_convs: Sequence[PositiveInt] = (2, 2, 2, 2),
        downsamples: Sequence[bool] = (True, True, True, True),
        enc_dilations: Sequence[PositiveInt] = (1, 1, 1, 1, 1),
        dec_dilations: Sequence[PositiveInt] = (1, 1, 1, 1),
        with_cp: bool = False,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "ReLU"},
        upsample_cfg: Mapping[str, Any] = {"type": "InterpConv"},
        norm_eval: bool = False,
        dcn: Mapping[str, Any] | None = None,
        plugins: Sequence[Mapping[str, Any]] | None = None,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        _check_absent(dcn=dcn, plugins=plugins)
        check_per_stage(
            num_stages, {"strides": strides, "enc_num_convs": enc_num_convs, "enc_dilations": enc_dilations}
        )
        check_per_stage(
            num_stages - 1,
            {"dec_num_convs": dec_num_convs, "downsamples": downsamples, "dec_dilations": dec_dilations},
        )
        self.norm_eval, self.pretrained = norm_eval, pretrained
        options: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg, "with_cp": with_cp}
        widths = [base_channels * 2**i for i in range(num_stages)]
        reductions = []  # of each stage
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            pools = i > 0 and strides[i] == 1 and downsamples[i - 1]  # a stride takes the place of the pooling
            reductions.append(2 if pools else strides[i])
            inputs = widths[i - 1] if i else in_channels
            block = BasicConvBlock(
                inputs,
                width,
                num_convs=enc_num_convs[i],
                stride=strides[i],
                dilation=enc_dilations[i],
                **options,
            )
            self.encoder.append(nn.Sequential(nn.MaxPool2d(2), block) if pools else nn.Sequential(block))
            if i:
                up = UpConvBlock(
                    width,
                    skip_channels=widths[i - 1],
                    out_channels=widths[i - 1],
                    num_convs=dec_num_convs[i - 1],
                    dilation=dec_dilations[i - 1],
                    upsample_cfg=upsample_cfg if strides[i] != 1 or downsamples[i - 1] else None,
                    **options,
                )
                self.decoder.append(up)
        self.channels = tuple(reversed(widths))
        self.strides = tuple(math.prod(reductions[: i + 1]) for i in reversed(range(num_stages)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, (N, channels[i], ~H / strides[i], ~W / strides[i]), coarsest first."""
        x, skips = images, []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        outputs = [skips.pop()]
        for block in reversed(self.decoder):
            outputs.append(block(skips.pop(), outputs[-1]))
        return tuple(outputs)


def _check_absent(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ConfigError(Problem("not supported by UNet", name, hint="leave it out"))
