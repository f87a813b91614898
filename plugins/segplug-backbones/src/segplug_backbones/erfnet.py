"""ERFNet: residual blocks of factorised convolutions, 3x1 and 1x3 instead of 3x3.

    (features,) = ERFNet()(torch.rand(2, 3, 512, 1024))  # 16 channels at stride 2

ERFNet: Efficient Residual Factorized ConvNet for Real-time Semantic Segmentation, Romera et al., 2017
(https://ieeexplore.ieee.org/document/8063438).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import LayerConfig, build_activation, build_conv, build_norm, resize


class DownsamplerBlock(nn.Module):
    """A strided convolution and a max pool, concatenated: (N, in_channels, h, w) -> (N, out_channels, ~h/2, ~w/2)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        # The pool contributes in_channels, the convolution the rest; one norm and activation follow for both.
        self.conv = build_conv(conv_cfg, in_channels, out_channels - in_channels, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.bn = build_norm(norm_cfg, out_channels)[1]
        self.act = build_activation(act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        pooled = resize(self.pool(x), out.shape[2:])  # the pool rounds odd sizes down, the convolution up
        return self.act(self.bn(torch.cat([out, pooled], dim=1)))


class NonBottleneck1d(nn.Module):
    """A residual block of 3x1, 1x3, 3x1 and 1x3 convolutions: (N, channels, h, w) -> the same shape.

    Args:
        channels: Channels of the feature map.
        drop_rate: Dropout rate of the residual branch.
        dilation: Dilation of the last two convolutions.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
    """

    def __init__(
        self,
        channels: int,
        drop_rate: float,
        dilation: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        conv = partial(build_conv, conv_cfg, channels, channels)
        self.act = build_activation(act_cfg)
        # One activation in several places, as in the reference: a PReLU is shared. A factorised 3x3 convolution has its
        # norm after the 1x3 half only.
        self.convs_layers = nn.Sequential(
            conv((3, 1), padding=(1, 0)),
            self.act,
            conv((1, 3), padding=(0, 1)),
            build_norm(norm_cfg, channels)[1],
            self.act,
            conv((3, 1), padding=(dilation, 0), dilation=(dilation, 1)),
            self.act,
            conv((1, 3), padding=(0, dilation), dilation=(1, dilation)),
            build_norm(norm_cfg, channels)[1],
            nn.Dropout(drop_rate),  # single values, as in MMSegmentation; the authors drop channels
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.convs_layers(x) + x)


class UpsamplerBlock(nn.Module):
    """A transposed convolution: (N, in_channels, h, w) -> (N, out_channels, 2h, 2w)."""

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        self.bn = build_norm(norm_cfg, out_channels)[1]
        self.act = build_activation(act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class ERFNet(Backbone):
    """Images (N, in_channels, H, W) to one map, at stride 2 by default.

    The encoder rounds odd sizes up three times, and the decoder doubles the result twice: 65 x 97 pixels give 36 x 52.

    Args:
        in_channels: Channels of the image.
        enc_downsample_channels: Output channels of each downsampler of the encoder.
        enc_stage_non_bottlenecks: Residual blocks after the second and each further downsampler.
        enc_non_bottleneck_dilations: Dilations of the residual blocks of the last stage, repeated.
        enc_non_bottleneck_channels: MMSegmentation's, checked but without effect: the residual blocks have the channels
            of the downsampler before them.
        dec_upsample_channels: MMSegmentation's, checked but without effect: ``dec_non_bottleneck_channels`` decide.
        dec_stages_non_bottleneck: Residual blocks after each upsampler of the decoder.
        dec_non_bottleneck_channels: Output channels of each upsampler, and of the residual blocks after it.
        dropout_ratio: Dropout rate of the residual blocks of the encoder.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments; ``eps`` is 1e-3 unless given.
        act_cfg: Type of the activations.

    Raises:
        ConfigError: When an argument does not fit the others.
    """

    conformance: ClassVar = {
        "enc_downsample_channels": (8, 12, 16),
        "enc_stage_non_bottlenecks": (1, 2),
        "enc_non_bottleneck_dilations": (2, 4),
        "enc_non_bottleneck_channels": (12, 16),
        "dec_upsample_channels": (8, 4),
        "dec_stages_non_bottleneck": (1, 1),
        "dec_non_bottleneck_channels": (8, 4),
    }
    conformance_exceptions: ClassVar = {
        "odd-size": "the decoder doubles the encoder's size, which was rounded up three times"
    }

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        enc_downsample_channels: Sequence[PositiveInt] = (16, 64, 128),
        enc_stage_non_bottlenecks: Sequence[PositiveInt] = (5, 8),
        enc_non_bottleneck_dilations: Sequence[PositiveInt] = (2, 4, 8, 16),
        enc_non_bottleneck_channels: Sequence[PositiveInt] = (64, 128),
        dec_upsample_channels: Sequence[PositiveInt] = (64, 16),
        dec_stages_non_bottleneck: Sequence[PositiveInt] = (2, 2),
        dec_non_bottleneck_channels: Sequence[PositiveInt] = (64, 16),
        dropout_ratio: Probability = 0.1,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN", "requires_grad": True},
        act_cfg: Mapping[str, Any] = {"type": "ReLU"},
    ) -> None:
        super().__init__()
        _check_lengths(
            len(enc_downsample_channels) - 1,
            enc_stage_non_bottlenecks=enc_stage_non_bottlenecks,
            enc_non_bottleneck_channels=enc_non_bottleneck_channels,
            dec_upsample_channels=dec_upsample_channels,
            dec_stages_non_bottleneck=dec_stages_non_bottleneck,
            dec_non_bottleneck_channels=dec_non_bottleneck_channels,
        )
        times, rest = divmod(enc_stage_non_bottlenecks[-1], len(enc_non_bottleneck_dilations))
        if rest:
            message = f"its last number, {enc_stage_non_bottlenecks[-1]}, is not divisible by the number of dilations"
            raise ConfigError(Problem(message, "enc_stage_non_bottlenecks"))
        norms: dict[str, Any] = {"norm_cfg": {"eps": 1e-3, **norm_cfg}, "act_cfg": act_cfg}
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, **norms}

        self.encoder = nn.ModuleList([DownsamplerBlock(in_channels, enc_downsample_channels[0], **layers)])
        dilations = [[1] * count for count in enc_stage_non_bottlenecks[:-1]]
        dilations.append([*enc_non_bottleneck_dilations] * times)
        for (inputs, width), stage_dilations in zip(pairwise(enc_downsample_channels), dilations):
            self.encoder.append(DownsamplerBlock(inputs, width, **layers))
            self.encoder.extend(
                NonBottleneck1d(width, dropout_ratio, dilation, **layers) for dilation in stage_dilations
            )

        self.decoder = nn.ModuleList()
        widths = (enc_downsample_channels[-1], *dec_non_bottleneck_channels)
        for (inputs, width), count in zip(pairwise(widths), dec_stages_non_bottleneck):
            self.decoder.append(UpsamplerBlock(inputs, width, **norms))
            self.decoder.extend(NonBottleneck1d(width, 0.0, 1, **layers) for _ in range(count))
        self.channels, self.strides = (widths[-1],), (2,)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return one map, (N, channels[0], about H/2, about W/2)."""
        x = images
        for block in (*self.encoder, *self.decoder):
            x = block(x)
        return (x,)


def _check_lengths(count: int, **arguments: Sequence[int]) -> None:
    if count < 1:
        raise ConfigError(Problem(f"{count + 1} numbers; at least 2 are needed", "enc_downsample_channels"))
    for name, values in arguments.items():
        if len(values) != count:
            message = f"{list(values)} must have {count} numbers, one less than enc_downsample_channels"
            raise ConfigError(Problem(message, name))
