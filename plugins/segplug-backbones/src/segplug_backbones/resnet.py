"""ResNet and its deep-stem forms, with dilation for dense prediction.

    backbone = ResNetV1c(50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    features = backbone(torch.rand(2, 3, 512, 512))  # strides 4, 8, 8, 8

Deep Residual Learning for Image Recognition, He et al., 2016 (https://arxiv.org/abs/1512.03385); the c and d forms: Bag
of Tricks for Image Classification, He et al., 2019 (https://arxiv.org/abs/1812.01187); multi-grid: Rethinking Atrous
Convolution for Semantic Image Segmentation, Chen et al., 2017 (https://arxiv.org/abs/1706.05587).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import TypedDict, Unpack

from segkernel.errors import UsageError
from segkernel.interfaces.model import Backbone
from segkernel.nn import build_conv, build_norm, kaiming_init
from segplug_backbones.pool import CeilAvgPool2d
from segplug_backbones.recompute import recompute, worth_recomputing

Depth = Literal[18, 34, 50, 101, 152]
Style = Literal["pytorch", "caffe"]


class Block(nn.Module):
    """A residual block, relu(branch(x) + shortcut(x)): (N, C, H, W) -> (N, channels * expansion, ~H/stride, ~W/stride).

    The branch is a row of convolutions with their norms, called conv1, bn1, conv2, bn2, ... and a ReLU between them.
    """

    expansion: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        downsample: nn.Module | None = None,
        *,
        style: Style = "pytorch",
        with_cp: bool = False,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
    ) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.style, self.with_cp = style, with_cp
        self._conv, self._norm = partial(build_conv, conv_cfg, bias=False), partial(build_norm, norm_cfg)
        self._names: list[tuple[str, str]] = []
        self._make_branch(in_channels, channels, stride, dilation)
        self.downsample = downsample

    def _make_branch(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        raise NotImplementedError

    def _add(self, in_channels: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        number = len(self._names) + 1
        name, norm = self._norm(channels, postfix=number)
        padding = dilation * (kernel // 2)
        conv = self._conv(in_channels, channels, kernel, stride=stride, padding=padding, dilation=dilation)
        self.add_module(f"conv{number}", conv)
        self.add_module(name, norm)
        self._names.append((f"conv{number}", name))

    @property
    def last_norm(self) -> nn.Module:
        """The norm that ends the branch."""
        return getattr(self, self._names[-1][1])

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and worth_recomputing(x):
            return self.relu(recompute(self, self._sum, x))
        return self.relu(self._sum(x))

    def _sum(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for number, (conv, norm) in enumerate(self._names, start=1):
            x = getattr(self, norm)(getattr(self, conv)(x))
            if number < len(self._names):
                x = self.relu(x)
        return x + shortcut


class BasicBlock(Block):
    """Two 3x3 convolutions, for depth 18 and 34; only the first is strided and dilated."""

    expansion = 1

    def _make_branch(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        self._add(in_channels, channels, 3, stride, dilation)
        self._add(channels, channels, 3)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, from depth 50 on; the 3x3 is dilated."""

    expansion = 4

    def _make_branch(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        first, second = (stride, 1) if self.style == "caffe" else (1, stride)
        self._add(in_channels, channels, 1, first)
        self._add(channels, channels, 3, second, dilation)
        self._add(channels, channels * self.expansion, 1)


VARIANTS: dict[int, tuple[type[Block], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""Depth to the kind of block and the number of blocks in each stage."""


class ResNetArguments(TypedDict, total=False):
    """What every form of `ResNet` takes besides its depth."""

    in_channels: int
    stem_channels: int
    base_channels: int
    num_stages: int
    strides: Sequence[int]
    dilations: Sequence[int]
    out_indices: Sequence[int]
    style: Style
    frozen_stages: int
    conv_cfg: Mapping[str, Any] | None
    norm_cfg: Mapping[str, Any]
    norm_eval: bool
    dcn: Mapping[str, Any] | None
    stage_with_dcn: Sequence[bool]
    plugins: Sequence[Mapping[str, Any]] | None
    multi_grid: Sequence[int] | None
    contract_dilation: bool
    with_cp: bool
    zero_init_residual: bool


class ResNet(Backbone):
    """Images (N, in_channels, H, W) to one map for each of ``out_indices``.

    With the default strides the maps are at 1/4, 1/8, 1/16 and 1/32 of the image; a stage with stride 1 keeps the
    size of the one before it, and is usually dilated instead. Odd sizes are rounded up.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: Channels of the image.
        stem_channels: Channels after the stem.
        base_channels: Width of the first stage, doubled by each next one; a bottleneck's output is four times that.
        num_stages: Stages to build, 1 to 4.
        strides: Of each stage.
        dilations: Of each stage's 3x3 convolutions.
        out_indices: The stages to return, counted from 0.
        style: Where a bottleneck strides: ``pytorch`` in its 3x3, ``caffe`` in its first 1x1 convolution.
        deep_stem: Three 3x3 convolutions in place of one 7x7.
        avg_down: A strided shortcut averages before its 1x1 convolution.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        conv_cfg: Kind of convolution; None is the ordinary one.
        norm_cfg: Kind of norm and its arguments.
        norm_eval: Keep batch norm in evaluation mode while training.
        dcn: Deformable convolution: not available yet.
        stage_with_dcn: The stages that have it.
        plugins: Modules inside the bottlenecks: not available yet.
        multi_grid: Dilations of the last stage's blocks, one each; replaces that stage's dilation.
        contract_dilation: The first block of a stage has half the stage's dilation.
        with_cp: Compute activations a second time in backward, to save memory.
        zero_init_residual: Start each block as the identity.

    Raises:
        UsageError: When an argument is out of range or does not fit the others.
    """

    fixed_arguments: ClassVar[frozenset[str]] = frozenset()
    conformance: ClassVar = (
        {"depth": 18, "base_channels": 8, "stem_channels": 8},
        {"depth": 50, "base_channels": 8, "strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
    )

    def __init__(
        self,
        depth: Depth,
        in_channels: int = 3,
        stem_channels: int = 64,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: Style = "pytorch",
        deep_stem: bool = False,
        avg_down: bool = False,
        frozen_stages: int = -1,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN", "requires_grad": True},
        norm_eval: bool = False,
        dcn: Mapping[str, Any] | None = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        plugins: Sequence[Mapping[str, Any]] | None = None,
        multi_grid: Sequence[int] | None = None,
        contract_dilation: bool = False,
        with_cp: bool = False,
        zero_init_residual: bool = True,
    ) -> None:
        super().__init__()
        if depth not in VARIANTS:
            raise UsageError(f"depth {depth} is not one of {', '.join(map(str, VARIANTS))}")
        if style not in get_args(Style):
            raise UsageError(f"style {style!r} is not {' or '.join(get_args(Style))}")
        _refuse_for_now(dcn is not None or any(stage_with_dcn), plugins is not None)
        _check_stages(num_stages, strides, dilations, out_indices, frozen_stages)
        self.out_indices = tuple(out_indices)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self._conv, self._norm = partial(build_conv, conv_cfg, bias=False), partial(build_norm, norm_cfg)
        self._add_stem(in_channels, stem_channels, deep_stem)

        block, counts = VARIANTS[depth]
        make = partial(block, style=style, with_cp=with_cp, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        channels = [stem_channels]
        self._stages = [f"layer{i + 1}" for i in range(num_stages)]
        for i, name in enumerate(self._stages):
            grid = multi_grid if i == num_stages - 1 else None
            per_block = _block_dilations(counts[i], dilations[i], grid, contract_dilation)
            width = base_channels * 2**i
            shortcut = self._shortcut(channels[-1], width * block.expansion, strides[i], avg_down)
            channels.append(width * block.expansion)
            blocks = [make(channels[-2], width, strides[i], per_block[0], shortcut)]
            blocks += [make(channels[-1], width, dilation=dilation) for dilation in per_block[1:]]
            self.add_module(name, nn.Sequential(*blocks))
        self.channels = tuple(channels[i + 1] for i in self.out_indices)
        self.strides = tuple(4 * math.prod(strides[: i + 1]) for i in self.out_indices)
        self._initialise(zero_init_residual)
        for module in self._frozen():
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = images, []
        for module in (*self._stem(), self.maxpool):
            x = module(x)
        for name in self._stages:
            x = getattr(self, name)(x)
            outputs.append(x)
        return tuple(outputs[i] for i in self.out_indices)

    def train(self, mode: bool = True) -> ResNet:
        """Set the mode; frozen stages, and with ``norm_eval`` every batch norm, stay in evaluation mode."""
        super().train(mode)
        still = list(self._frozen())
        if self.norm_eval:
            still += [module for module in self.modules() if isinstance(module, _BatchNorm)]
        for module in still:
            module.eval()
        return self

    def _add_stem(self, in_channels: int, channels: int, deep: bool) -> None:
        self.deep_stem = deep
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        if not deep:
            self.conv1 = self._conv(in_channels, channels, 7, stride=2, padding=3)
            self._stem_norm, norm = self._norm(channels, postfix=1)
            self.add_module(self._stem_norm, norm)
            return
        half = channels // 2
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((in_channels, half, 2), (half, half, 1), (half, channels, 1)):
            conv = self._conv(inputs, outputs, 3, stride=stride, padding=1)
            layers += [conv, self._norm(outputs)[1], nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*layers)

    def _stem(self) -> list[nn.Module]:
        return [self.stem] if self.deep_stem else [self.conv1, getattr(self, self._stem_norm), self.relu]

    def _shortcut(self, in_channels: int, channels: int, stride: int, average: bool) -> nn.Sequential | None:
        if stride == 1 and in_channels == channels:
            return None
        layers: list[nn.Module] = []
        if average:  # also where it does nothing (stride 1): the positions of the layers are state-dict keys
            layers.append(CeilAvgPool2d(stride))
        layers.append(self._conv(in_channels, channels, 1, stride=1 if average else stride))
        return nn.Sequential(*layers, self._norm(channels)[1])

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return self._stem() + [getattr(self, name) for name in self._stages[: self.frozen_stages]]

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_init(module)
            elif isinstance(module, Block) and zero_init_residual and hasattr(module.last_norm, "weight"):
                nn.init.zeros_(module.last_norm.weight)  # norms start as 1 and 0 by themselves


class ResNetV1c(ResNet):
    """`ResNet` whose stem is three 3x3 convolutions."""

    fixed_arguments = frozenset({"deep_stem", "avg_down"})

    def __init__(self, depth: Depth, **kwargs: Unpack[ResNetArguments]) -> None:
        super().__init__(depth, deep_stem=True, avg_down=False, **kwargs)


class ResNetV1d(ResNet):
    """`ResNetV1c` whose strided shortcuts average instead of skipping pixels."""

    fixed_arguments = frozenset({"deep_stem", "avg_down"})

    def __init__(self, depth: Depth, **kwargs: Unpack[ResNetArguments]) -> None:
        super().__init__(depth, deep_stem=True, avg_down=True, **kwargs)


def _block_dilations(blocks: int, dilation: int, multi_grid: Sequence[int] | None, contract: bool) -> list[int]:
    if multi_grid is None:
        first = dilation // 2 if contract and dilation > 1 else dilation
        return [first] + [dilation] * (blocks - 1)
    if len(multi_grid) < blocks:
        raise UsageError(f"multi_grid {list(multi_grid)} needs {blocks} numbers, one for each block of the last stage")
    return list(multi_grid[:blocks])


def _check_stages(
    num_stages: int, strides: Sequence[int], dilations: Sequence[int], out_indices: Sequence[int], frozen_stages: int
) -> None:
    if not 1 <= num_stages <= 4:
        raise UsageError(f"num_stages is {num_stages}; a ResNet has 1 to 4")
    for name, values in (("strides", strides), ("dilations", dilations)):
        if len(values) != num_stages:
            raise UsageError(f"{name} {list(values)} needs {num_stages} numbers, one for each of the num_stages")
    if not out_indices or not all(0 <= i < num_stages for i in out_indices):
        raise UsageError(f"out_indices {list(out_indices)} must name stages 0 to {num_stages - 1}")
    if not -1 <= frozen_stages <= num_stages:
        raise UsageError(f"frozen_stages is {frozen_stages}; it must be -1 (nothing) to {num_stages}")


def _refuse_for_now(dcn: bool, plugins: bool) -> None:
    if dcn:
        raise UsageError("ResNet's dcn (deformable convolution) is not available yet; it comes in a later release")
    if plugins:
        raise UsageError("ResNet's plugins are not available yet; they come in a later release")
