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
from typing_extensions import Required, TypedDict, Unpack

from segkernel.errors import ConfigError, Problem, UsageError
from segkernel.nn import build_norm
from segplug_backbones.freezing import PartlyFrozen
from segplug_backbones.pool import CeilAvgPool2d
from segplug_backbones.residual import BasicBlock, Block, Bottleneck, Style, new_conv

Depth = Literal[18, 34, 50, 101, 152]
Variants = Mapping[int, tuple[type[Block], tuple[int, ...]]]
NormConfig = Mapping[str, Any]

VARIANTS: Variants = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""Depth to the kind of block and the number of blocks in each stage."""
POSITIONS = ("after_conv1", "after_conv2", "after_conv3")


class PluginConfig(TypedDict, total=False):
    """A layer inside the bottlenecks: ``cfg`` names one of the group ``layers``, which is given ``in_channels``; its
    ``postfix`` ends the name in the state dict. ``stages`` tells which stages have it, all by default."""

    cfg: Required[Mapping[str, Any]]
    position: Required[Literal["after_conv1", "after_conv2", "after_conv3"]]
    stages: Sequence[bool] | None


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
    norm_cfg: NormConfig
    norm_eval: bool
    dcn: Mapping[str, Any] | None
    stage_with_dcn: Sequence[bool]
    plugins: Sequence[PluginConfig] | None
    multi_grid: Sequence[int] | None
    contract_dilation: bool
    with_cp: bool
    zero_init_residual: bool
    pretrained: str | None
    stem_norm_cfg: NormConfig | None
    stage_norm_cfgs: Sequence[NormConfig | None] | None


class PlainResNetArguments(ResNetArguments, total=False):
    """Those, and what the c and d forms fix."""

    deep_stem: bool
    avg_down: bool


class ResNet(PartlyFrozen):
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
        dcn: Deformable 3x3 convolutions in bottlenecks: ``{type: DCNv2, deform_groups: 1}``, or ``DCN`` for version 1;
            with ``fallback_on_stride: true`` strided ones stay ordinary.
        stage_with_dcn: The stages that have them.
        plugins: Layers inside the bottlenecks: ``{cfg: {type: ContextBlock, ratio: 0.25}, position: after_conv3}``.
        multi_grid: Dilations of the last stage's blocks, one each; replaces that stage's dilation.
        contract_dilation: The first block of a stage has half the stage's dilation.
        with_cp: Compute activations a second time in backward, to save memory.
        zero_init_residual: Start each block as the identity.
        pretrained: Weights that the runner loads after building.
        stem_norm_cfg: Norm of the stem, ``{type: IN, affine: true}`` say, against changes of colour and contrast;
            ``norm_cfg`` for None.
        stage_norm_cfgs: Norm of each stage; ``norm_cfg`` for None, alone or in the list.

    Raises:
        UsageError: When an argument is out of range or does not fit the others.
        ConfigError: When that is about deformable convolution, plugins or the norms of stages.
    """

    variants: ClassVar[Variants] = VARIANTS
    block_options: Mapping[str, Any] = {}
    """Further arguments of each block; a subclass sets it before this constructor runs."""
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
        plugins: Sequence[PluginConfig] | None = None,
        multi_grid: Sequence[int] | None = None,
        contract_dilation: bool = False,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        pretrained: str | None = None,
        stem_norm_cfg: NormConfig | None = None,
        stage_norm_cfgs: Sequence[NormConfig | None] | None = None,
    ) -> None:
        super().__init__()
        if depth not in self.variants:
            raise UsageError(f"depth {depth} is not one of {', '.join(map(str, self.variants))}")
        if style not in get_args(Style):
            raise UsageError(f"style {style!r} is not {' or '.join(get_args(Style))}")
        _check_stages(num_stages, strides, dilations, out_indices, frozen_stages)
        block, counts = self.variants[depth]
        _check_extras(block, num_stages, conv_cfg, dcn, stage_with_dcn, plugins, stage_norm_cfgs)
        self.out_indices = tuple(out_indices)
        self.frozen_stages, self.norm_eval, self.pretrained = frozen_stages, norm_eval, pretrained
        self._conv = partial(new_conv, conv_cfg)
        self._add_stem(in_channels, stem_channels, deep_stem, stem_norm_cfg or norm_cfg)

        channels = [stem_channels]
        self._stages = [f"layer{i + 1}" for i in range(num_stages)]
        for i, name in enumerate(self._stages):
            make = partial(
                block,
                style=style,
                with_cp=with_cp,
                conv_cfg=conv_cfg,
                norm_cfg=(stage_norm_cfgs[i] if stage_norm_cfgs else None) or norm_cfg,
                dcn=dcn if dcn and stage_with_dcn[i] else None,
                plugins=[plugin for plugin in plugins or () if (plugin.get("stages") or [True] * num_stages)[i]],
                **self.block_options,
            )
            grid = multi_grid if i == num_stages - 1 else None
            per_block = _block_dilations(counts[i], dilations[i], grid, contract_dilation)
            channels.append(base_channels * 2**i * block.expansion)
            self.add_module(
                name, self._stage(make, channels[-2], base_channels * 2**i, strides[i], per_block, avg_down)
            )
        self.channels = tuple(channels[i + 1] for i in self.out_indices)
        self.strides = tuple(4 * math.prod(strides[: i + 1]) for i in self.out_indices)
        if zero_init_residual:
            self._zero_last_norms()
        self._freeze()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = images, []
        for module in (*self._stem(), self.maxpool):
            x = module(x)
        for name in self._stages:
            x = getattr(self, name)(x)
            outputs.append(x)
        return tuple(outputs[i] for i in self.out_indices)

    def _add_stem(self, in_channels: int, channels: int, deep: bool, norm_cfg: NormConfig) -> None:
        self.deep_stem = deep
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        if not deep:
            self.conv1 = self._conv(in_channels, channels, 7, stride=2, padding=3)
            self._stem_norm, norm = build_norm(norm_cfg, channels, postfix=1)
            self.add_module(self._stem_norm, norm)
            return
        half = channels // 2
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((in_channels, half, 2), (half, half, 1), (half, channels, 1)):
            conv = self._conv(inputs, outputs, 3, stride=stride, padding=1)
            layers += [conv, build_norm(norm_cfg, outputs)[1], nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*layers)

    def _stem(self) -> list[nn.Module]:
        return [self.stem] if self.deep_stem else [self.conv1, getattr(self, self._stem_norm), self.relu]

    def _stage(
        self, make: partial[Block], in_channels: int, width: int, stride: int, dilations: Sequence[int], average: bool
    ) -> nn.Sequential:
        """Return one block for each of ``dilations``; the first one strides."""
        channels = width * make.func.expansion  # type: ignore[attr-defined]
        shortcut = self._shortcut(in_channels, channels, stride, average, make.keywords["norm_cfg"])
        first = make(in_channels, width, stride, dilations[0], shortcut)
        return nn.Sequential(first, *(make(channels, width, dilation=dilation) for dilation in dilations[1:]))

    def _shortcut(
        self, in_channels: int, channels: int, stride: int, average: bool, norm_cfg: NormConfig
    ) -> nn.Sequential | None:
        if stride == 1 and in_channels == channels:
            return None
        layers: list[nn.Module] = []
        if average:  # also where it does nothing (stride 1): the positions of the layers are state-dict keys
            layers.append(CeilAvgPool2d(stride))
        layers.append(self._conv(in_channels, channels, 1, stride=1 if average else stride))
        return nn.Sequential(*layers, build_norm(norm_cfg, channels)[1])

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return self._stem() + [getattr(self, name) for name in self._stages[: self.frozen_stages]]

    def _zero_last_norms(self) -> None:
        for module in self.modules():
            if isinstance(module, Block) and isinstance(getattr(module.last_norm, "weight", None), Tensor):
                nn.init.zeros_(module.last_norm.weight)  # type: ignore[arg-type]


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


def resnet18(**kwargs: Unpack[PlainResNetArguments]) -> ResNet:
    """`ResNet` of depth 18, 11.2 M parameters."""
    return ResNet(18, **kwargs)


def resnet34(**kwargs: Unpack[PlainResNetArguments]) -> ResNet:
    """`ResNet` of depth 34, 21.3 M parameters."""
    return ResNet(34, **kwargs)


def resnet50(**kwargs: Unpack[PlainResNetArguments]) -> ResNet:
    """`ResNet` of depth 50, 23.5 M parameters."""
    return ResNet(50, **kwargs)


def resnet101(**kwargs: Unpack[PlainResNetArguments]) -> ResNet:
    """`ResNet` of depth 101, 42.5 M parameters."""
    return ResNet(101, **kwargs)


def resnet152(**kwargs: Unpack[PlainResNetArguments]) -> ResNet:
    """`ResNet` of depth 152, 58.1 M parameters."""
    return ResNet(152, **kwargs)


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


def _check_extras(
    block: type[Block],
    num_stages: int,
    conv_cfg: Mapping[str, Any] | None,
    dcn: Mapping[str, Any] | None,
    stage_with_dcn: Sequence[bool],
    plugins: Sequence[PluginConfig] | None,
    stage_norm_cfgs: Sequence[NormConfig | None] | None,
) -> None:
    if block is BasicBlock and (dcn or plugins):
        hint = "depth 50 and more have bottlenecks"
        raise ConfigError(Problem("only bottlenecks can have it", "dcn" if dcn else "plugins", hint=hint))
    if dcn and conv_cfg:
        raise ConfigError(Problem("it would replace what conv_cfg asks for", "dcn", hint="leave out one of them"))
    lists = {"stage_with_dcn": stage_with_dcn if dcn else None, "stage_norm_cfgs": stage_norm_cfgs}
    lists |= {f"plugins[{i}].stages": plugin.get("stages") for i, plugin in enumerate(plugins or ())}
    for name, values in lists.items():
        if values is not None and len(values) != num_stages:
            raise ConfigError(Problem(f"{len(values)} entries for {num_stages} stages", name))
    for i, plugin in enumerate(plugins or ()):
        if (position := plugin.get("position")) not in POSITIONS:
            raise ConfigError(Problem(f"{position!r} is not one of {', '.join(POSITIONS)}", f"plugins[{i}].position"))
