"""ResNet and ResNeXt as bodies of detectors: pretrained batch norm is frozen, and the last stage may be left out.

    body = DetectionResNet(50)                                  # for FPN: strides 4, 8, 16, 32
    body = DetectionResNet(50, num_stages=3, out_indices=[2])   # C4: stride 16; the last stage is in the box head

Deep Residual Learning for Image Recognition, He et al., 2016 (https://arxiv.org/abs/1512.03385); Aggregated Residual
Transformations for Deep Neural Networks, Xie et al., 2017 (https://arxiv.org/abs/1611.05431).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    FreezableBackbone,
    build_norm,
    check_frozen_stages,
    check_out_indices,
    checkpoint_block,
    kaiming_init,
)

Style = Literal["pytorch", "caffe"]
BLOCKS: Mapping[int, tuple[int, ...]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Table 1 of the paper: blocks of each stage, by depth."""


class FrozenBatchNorm2d(nn.Module):
    """``FrozenBN``: batch norm whose statistics and factors are constants. A fixed scale and shift of each channel.

    Detectors train with too few images per device for statistics of a batch. State-dict keys are those of batch norm.

    Args:
        num_features: Channels.
        eps: Added to the variance.
    """

    abbreviation: ClassVar[str] = "bn"
    conformance: ClassVar = {"num_features": 4}
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: PositiveInt, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((num_features,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(-1, 1, 1).to(x.dtype) + shift.view(-1, 1, 1).to(x.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # of a batch norm that is frozen from now on
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: (N, in_channels, H, W) -> (N, 4 * channels, H', W').

    Args:
        in_channels: Input channels.
        channels: A quarter of the output channels.
        stride: Stride of the block.
        dilation: Dilation of the 3x3 convolution.
        style: Which convolution has the stride: ``caffe`` the first 1x1, ``pytorch`` the 3x3.
        groups: Groups of the 3x3 convolution.
        base_width: Channels of a group in the first stage, of 64 channels.
        norm_cfg: Type of the norms and its arguments.
        with_cp: Activation checkpointing.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        style: Style = "pytorch",
        groups: int = 1,
        base_width: int = 64,
        norm_cfg: Mapping[str, Any] = {"type": "FrozenBN"},
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        stride1, stride2 = (stride, 1) if style == "caffe" else (1, stride)
        width, out_channels = channels * base_width // 64 * groups, channels * self.expansion
        self.conv1 = _conv(in_channels, width, 1, stride1)
        self.norm1_name = _add_norm(self, norm_cfg, width, 1)
        self.conv2 = _conv(width, width, 3, stride2, dilation, groups)
        self.norm2_name = _add_norm(self, norm_cfg, width, 2)
        self.conv3 = _conv(width, out_channels, 1)
        self.norm3_name = _add_norm(self, norm_cfg, out_channels, 3)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                _conv(in_channels, out_channels, 1, stride), build_norm(norm_cfg, out_channels)[1]
            )
        self.relu = nn.ReLU(inplace=True)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(checkpoint_block(self, x, forward=self._forward, enabled=self.with_cp))

    def _forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(getattr(self, self.norm1_name)(self.conv1(x)))
        x = self.relu(getattr(self, self.norm2_name)(self.conv2(x)))
        return getattr(self, self.norm3_name)(self.conv3(x)) + shortcut


def residual_stage(
    blocks: int, in_channels: int, channels: int, stride: int = 1, dilation: int = 1, **options: Any
) -> nn.Sequential:
    """Return a stage of bottlenecks: (N, in_channels, H, W) -> (N, 4 * channels, ~H / stride, ~W / stride).

    Args:
        blocks: Number of blocks.
        in_channels: Input channels.
        channels: A quarter of the output channels.
        stride: Stride of the stage.
        dilation: Dilation of the 3x3 convolutions.
        **options: Further arguments of `Bottleneck`.
    """
    first = Bottleneck(in_channels, channels, stride, dilation, **options)
    others = (Bottleneck(4 * channels, channels, 1, dilation, **options) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


class DetectionResNet(FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, of 256 * 2^i channels.

    With the default strides the maps are at 1/4, 1/8, 1/16 and 1/32 of the image.

    Args:
        depth: 50, 101 or 152.
        in_channels: Channels of the image.
        base_channels: Width of the stem and of the first stage's 3x3 convolutions, doubled in each further stage.
        num_stages: Stages to build, 1 to 4; 3 for C4, whose last stage works on regions.
        strides: Stride of each stage.
        dilations: Dilation of the 3x3 convolutions of each stage; DC5 has strides 1, 2, 2, 1 and dilations 1, 1, 1, 2.
        out_indices: The stages to return, counted from 0.
        style: Which convolution of a bottleneck has the stride: ``caffe`` the first 1x1, as in the weights of MSRA,
            ``pytorch`` the 3x3, as in torchvision's.
        groups: Groups of the 3x3 convolutions, 32 or 64 in ResNeXt.
        base_width: Channels of a group in the first stage: 8 for 32x8d, 4 for 64x4d, and 64 for ResNet.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages; n + 1 is FREEZE_AT.
        norm_cfg: Type of the norms and its arguments: ``FrozenBN``, ``BN``, ``SyncBN`` or ``GN``.
        norm_eval: Keep batch norm in evaluation mode while training.
        with_cp: Activation checkpointing of the blocks.
        pretrained: Weights to load: a file, an address, or a known name.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar[Any] = (
        {"depth": 50, "base_channels": 8},
        {"depth": 50, "base_channels": 8, "strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2), "out_indices": (3,)},
    )

    def __init__(
        self,
        depth: Literal[50, 101, 152] = 50,
        in_channels: PositiveInt = 3,
        base_channels: PositiveInt = 64,
        num_stages: PositiveInt = 4,
        strides: Sequence[PositiveInt] = (1, 2, 2, 2),
        dilations: Sequence[PositiveInt] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: Style = "pytorch",
        groups: PositiveInt = 1,
        base_width: PositiveInt = 64,
        frozen_stages: int = -1,
        norm_cfg: Mapping[str, Any] = {"type": "FrozenBN"},
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        _check(depth, num_stages, strides, dilations)
        self.num_stages, self.norm_eval, self.pretrained = num_stages, norm_eval, pretrained
        self.out_indices = check_out_indices(out_indices, num_stages)
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, num_stages)
        self.conv1 = nn.Conv2d(in_channels, base_channels, 7, stride=2, padding=3, bias=False)
        kaiming_init(self.conv1)
        self.norm1_name = _add_norm(self, norm_cfg, base_channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        options = {"style": style, "groups": groups, "base_width": base_width, "norm_cfg": norm_cfg, "with_cp": with_cp}
        width = base_channels
        for i in range(num_stages):
            channels = base_channels * 2**i
            stage = residual_stage(BLOCKS[depth][i], width, channels, strides[i], dilations[i], **options)
            self.add_module(f"layer{i + 1}", stage)
            width = channels * Bottleneck.expansion
        self.channels = tuple(base_channels * 2**i * Bottleneck.expansion for i in self.out_indices)
        self.strides = tuple(4 * math.prod(strides[: i + 1]) for i in self.out_indices)
        self.freeze_stages()

    @property
    def stages(self) -> list[nn.Module]:
        """``layer1``, ``layer2``, ..."""
        return [getattr(self, f"layer{i + 1}") for i in range(self.num_stages)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.maxpool(self.relu(getattr(self, self.norm1_name)(self.conv1(images))))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps[i] for i in self.out_indices)

    def frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.conv1, getattr(self, self.norm1_name), *self.stages[: self.frozen_stages]]


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> Any:
    """Return a convolution without bias, as the norm after it has one, padded to keep the size but for the stride."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
    kaiming_init(conv)
    return conv


def _add_norm(module: nn.Module, norm_cfg: Mapping[str, Any], channels: int, number: int) -> str:
    """Add norm ``number`` to ``module`` and return its name, which depends on the type: ``bn1``, ``gn1``."""
    name, norm = build_norm(norm_cfg, channels, postfix=number)
    module.add_module(name, norm)
    return name


def _check(depth: int, num_stages: int, strides: Sequence[int], dilations: Sequence[int]) -> None:
    if depth not in BLOCKS:
        raise ConfigError(Problem(f"{depth} is not one of {', '.join(map(str, BLOCKS))}", "depth"))
    if not 1 <= num_stages <= 4:
        raise ConfigError(Problem(f"{num_stages} is not 1 to 4", "num_stages"))
    for name, values in {"strides": strides, "dilations": dilations}.items():
        if len(values) < num_stages:
            raise ConfigError(Problem(f"{list(values)} needs {num_stages} numbers, one for each stage", name))
