"""EfficientNet, ``b0`` to ``b8`` and ``l2``, and EfficientNet-EdgeTPU, ``es`` to ``el``.

    features = EfficientNet("b3", out_indices=(2, 3, 4, 5))(torch.rand(2, 3, 512, 512))  # strides 4, 8, 16, 32

EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, Tan and Le, 2019
(https://arxiv.org/abs/1905.11946). Arguments and state-dict keys are mmpretrain's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import ConfigError, Problem, suggest
from segkernel.nn import (
    ConvModule,
    DropPath,
    FreezableBackbone,
    check_frozen_stages,
    check_out_indices,
    checkpoint_block,
    kaiming_init,
    linear_drop_path_rates,
)
from segplug_backbones.dilation import dilate
from segplug_backbones.inverted_residual import InvertedResidualV3
from segplug_backbones.layers import AdaptivePaddingConv2d
from segplug_backbones.squeeze import make_divisible


class Row(NamedTuple):
    """Blocks of one kind, with the same kernel, output channels and expansion; only the first one has the stride.

    Args:
        kernel: Side of the depthwise convolutions in pixels.
        channels: Output channels before width scaling.
        stride: Stride of the first block.
        expansion: Hidden channels as a multiple of the input channels.
        blocks: Number of blocks before depth scaling.
        kind: Inverted residuals with (``mbconv``) or without (``plain``) squeeze-and-excitation, or `EdgeResidual`.
        new_stage: Whether a stage begins here; None for rows that have a stride.
    """

    kernel: int
    channels: int
    stride: int
    expansion: int
    blocks: int
    kind: Literal["mbconv", "plain", "edge"] = "mbconv"
    new_stage: bool | None = None


NORMAL = (
    Row(3, 16, 1, 1, 1),
    Row(3, 24, 2, 6, 2),
    Row(5, 40, 2, 6, 2),
    Row(3, 80, 2, 6, 3),
    Row(5, 112, 1, 6, 3),
    Row(5, 192, 2, 6, 4),
    Row(3, 320, 1, 6, 1),
)
"""Table 1 of the paper."""
# segmentation_models_pytorch takes the map of stride 16 two blocks earlier, and dilates from there on.
SMP_B0 = (
    *NORMAL[:4],
    Row(5, 112, 1, 6, 1),
    Row(5, 112, 1, 6, 2, new_stage=True),
    Row(5, 192, 2, 6, 4, new_stage=False),
    Row(3, 320, 1, 6, 1),
)
# EfficientNet-EdgeTPU (Gupta and Tan, 2019), not in the paper.
EDGE = (
    Row(3, 24, 1, 3, 1, "edge"),
    Row(3, 32, 2, 8, 2, "edge"),
    Row(3, 48, 2, 8, 4, "edge"),
    Row(5, 96, 2, 8, 5, "plain"),
    Row(5, 144, 1, 8, 4, "plain"),
    Row(5, 192, 2, 8, 2, "plain"),
)
ARCHS: dict[str, tuple[tuple[Row, ...], float, float]] = {
    "b0": (NORMAL, 1.0, 1.0),
    "b0-smp": (SMP_B0, 1.0, 1.0),
    "b1": (NORMAL, 1.0, 1.1),
    "b2": (NORMAL, 1.1, 1.2),
    "b3": (NORMAL, 1.2, 1.4),
    "b4": (NORMAL, 1.4, 1.8),
    "b5": (NORMAL, 1.6, 2.2),
    "b6": (NORMAL, 1.8, 2.6),
    "b7": (NORMAL, 2.0, 3.1),
    "b8": (NORMAL, 2.2, 3.6),
    "l2": (NORMAL, 4.3, 5.3),
    "es": (EDGE, 1.0, 1.0),
    "em": (EDGE, 1.0, 1.1),
    "el": (EDGE, 1.2, 1.4),
}
"""Rows, and the multipliers of width and depth (compound scaling, section 3.3 of the paper)."""


class EdgeResidual(nn.Module):
    """Fused inverted residual: expand with an ordinary convolution, project with 1x1.

    (N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        mid_channels: int,
        kernel_size: int,
        stride: int,
        with_residual: bool,
        drop_path_rate: float,
        conv_cfg: Mapping[str, Any] | None,
        norm_cfg: Mapping[str, Any],
        act_cfg: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.conv1 = ConvModule(
            in_channels,
            mid_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        self.conv2 = ConvModule(mid_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.use_residual = with_residual and stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        return x + self.drop_path(out) if self.use_residual else out


class EfficientNet(FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    Args:
        arch: ``b0`` to ``b8``, ``l2``, ``es``, ``em`` or ``el``; ``b0-smp`` is ``b0`` with the stages that
            segmentation_models_pytorch has.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first one.
        out_indices: The layers to return: 0 the stem, 1 to 5 the stages, at strides 2, 4, 8, 16 and 32, 6 the last
            convolution, which is built only for 6.
        frozen_stages: 0 freezes nothing, n the first n layers.
        conv_cfg: Type of the convolutions; the default has TensorFlow's ``SAME`` padding.
        norm_cfg: Type of the norms and its arguments; the default eps is TensorFlow's, with which the published
            weights were trained.
        act_cfg: Type of the activations.
        norm_eval: Keep batch norm in evaluation mode while training.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        in_channels: Channels of the image.
        output_stride: Stride of the last stage; stages that would exceed it are dilated instead.
        padding_size: Side in pixels of the images whose ``SAME`` padding is used for all sizes, as weights of
            EfficientNet-PyTorch and segmentation_models_pytorch expect; None pads each size as TensorFlow does.

    Raises:
        ConfigError: When an argument is out of range.
    """

    pyramid: ClassVar[Mapping[int, Mapping[str, Any]]] = {
        depth: {"out_indices": (0, 2, 3, 4, 5)[:depth]} for depth in (3, 4, 5)
    }
    conformance: ClassVar = ({"out_indices": (1, 2, 3, 4, 6)}, {"arch": "es", "out_indices": (2, 3, 4, 5, 6)})

    def __init__(
        self,
        arch: Literal["b0", "b0-smp", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2", "es", "em", "el"] = "b0",
        drop_path_rate: Probability = 0.0,
        out_indices: Sequence[int] = (6,),
        frozen_stages: int = 0,
        conv_cfg: Mapping[str, Any] | None = {"type": "Conv2dAdaptivePadding"},
        norm_cfg: Mapping[str, Any] = {"type": "BN", "eps": 1e-3},
        act_cfg: Mapping[str, Any] = {"type": "Swish"},
        norm_eval: bool = False,
        with_cp: bool = False,
        in_channels: PositiveInt = 3,
        output_stride: Literal[8, 16, 32] = 32,
        padding_size: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        if arch not in ARCHS:
            raise ConfigError(Problem(f"no EfficientNet is called {arch!r}", "arch", hint=suggest(arch, ARCHS)))
        rows, width, depth = ARCHS[arch]
        stages = _stages([_scaled(row, width, depth) for row in rows])
        self.out_indices = check_out_indices(out_indices, len(stages) + 2)
        self.frozen_stages = check_frozen_stages(frozen_stages, 0, len(stages) + 2)
        self.norm_eval, self.with_cp = norm_eval, with_cp
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        channels, strides = [make_divisible(32 * width, 8)], [2]
        self.layers = nn.ModuleList([ConvModule(in_channels, channels[0], 3, stride=2, padding=1, **layers)])
        total = sum(row.blocks for stage in stages for row in stage)
        drop_path_rates = iter(linear_drop_path_rates(drop_path_rate, total))
        for stage in stages:
            self.layers.append(nn.Sequential(*_blocks(stage, channels[-1], drop_path_rates, layers)))
            channels.append(stage[-1].channels)
            strides.append(strides[-1] * math.prod(row.stride for row in stage))
            if strides[-1] > output_stride:
                dilate(self.layers[-1], strides[-1] // output_stride)
        if padding_size is not None:
            _fix_padding(self, padding_size)
        last = make_divisible(1280 * width, 8)
        self.channels = tuple([*channels, last][i] for i in self.out_indices)
        self.strides = tuple(min([*strides, strides[-1]][i], output_stride) for i in self.out_indices)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_init(module)
        if len(stages) + 1 in self.out_indices:  # without it, all other layers start from the same values
            self.layers.append(ConvModule(channels[-1], last, 1, **layers))
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = images, []
        for layer in self.layers[: max(self.out_indices) + 1]:
            for block in layer if isinstance(layer, nn.Sequential) else [layer]:
                x = checkpoint_block(block, x, enabled=self.with_cp)
            outputs.append(x)
        return tuple(outputs[i] for i in self.out_indices)

    def frozen_modules(self) -> list[nn.Module]:
        return list(self.layers[: self.frozen_stages])


def _scaled(row: Row, width: float, depth: float) -> Row:
    # Depth is rounded up, and width to a multiple of 8, as in the authors' code.
    return row._replace(channels=make_divisible(row.channels * width, 8), blocks=math.ceil(row.blocks * depth))


def _stages(rows: Sequence[Row]) -> list[list[Row]]:
    """Group the rows into stages: each but the first one begins with a stride of 2, or where a row says so."""
    stages: list[list[Row]] = []
    for i, row in enumerate(rows):
        if i == 0 or (row.stride == 2 if row.new_stage is None else row.new_stage):
            stages.append([])
        stages[-1].append(row)
    return stages


def _blocks(
    stage: Sequence[Row], in_channels: int, drop_path_rates: Iterator[float], layers: Mapping[str, Any]
) -> Iterator[nn.Module]:
    for row in stage:
        for i in range(row.blocks):
            yield _block(row, i, in_channels, next(drop_path_rates), layers)
            in_channels = row.channels


def _block(row: Row, i: int, in_channels: int, drop_path_rate: float, layers: Mapping[str, Any]) -> nn.Module:
    """Return block ``i`` of a row."""
    stride = row.stride if i == 0 else 1
    if row.kind == "edge":
        # As in the reference: repeated blocks of the first row expand by 4 and have no residual connection.
        exception = i > 0 and row.expansion == 3
        return EdgeResidual(
            in_channels,
            row.channels,
            mid_channels=in_channels * (4 if exception else row.expansion),
            kernel_size=row.kernel,
            stride=stride,
            with_residual=not exception,
            drop_path_rate=drop_path_rate,
            **layers,
        )
    width = in_channels * row.expansion
    se_cfg = {
        "channels": width,
        "ratio": 4 * row.expansion,  # a quarter of the block's input channels, not of the expanded ones
        "divisor": 1,
        "act_cfg": (layers["act_cfg"], {"type": "Sigmoid"}),
    }
    return InvertedResidualV3(
        in_channels,
        row.channels,
        mid_channels=width,
        kernel_size=row.kernel,
        stride=stride,
        se_cfg=se_cfg if row.kind == "mbconv" else None,
        drop_path_rate=drop_path_rate,
        **layers,
    )


def _fix_padding(model: nn.Module, size: int) -> None:
    """Let every convolution pad as for images of one size."""
    for module in model.modules():
        if isinstance(module, AdaptivePaddingConv2d) and module.kernel_size[0] > 1:
            module.input_size = size
            size = math.ceil(size / module.stride[0])
