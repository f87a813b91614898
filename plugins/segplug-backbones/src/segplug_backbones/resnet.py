"""ResNet, with dilation for dense prediction, and its variants with a deep stem.

    backbone = ResNetV1c(50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    features = backbone(torch.rand(2, 3, 512, 512))  # strides 4, 8, 8, 8

Deep Residual Learning for Image Recognition, He et al., 2016 (https://arxiv.org/abs/1512.03385); the variants C and D:
Bag of Tricks for Image Classification, He et al., 2019 (https://arxiv.org/abs/1812.01187); multi-grid: Rethinking
Atrous Convolution for Semantic Image Segmentation, Chen et al., 2017 (https://arxiv.org/abs/1706.05587).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn
from typing_extensions import Required, TypedDict, Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import FreezableBackbone, build_norm, check_frozen_stages, check_out_indices, check_per_stage
from segplug_backbones.dilation import dilate
from segplug_backbones.factory import factory
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.residual import (
    BasicBlock,
    Bottleneck,
    Style,
    conv_no_bias,
    residual_stage,
    zero_last_norms,
)

Depth = Literal[18, 34, 50, 101, 152]
OutputStride = Literal[8, 16, 32]
Block = type[BasicBlock] | type[Bottleneck]
Variants = Mapping[int, tuple[Block, tuple[int, ...]]]
NormConfig = Mapping[str, Any]

VARIANTS: Variants = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""Table 1 of the paper: class of the blocks and blocks of each stage, by depth."""
POSITIONS = ("after_conv1", "after_conv2", "after_conv3")


class PluginConfig(TypedDict, total=False):
    """A layer inside the bottlenecks.

    ``cfg`` is a layer of the group ``layers``, which is passed ``in_channels``; its ``postfix`` ends its name in state
    dicts. ``stages`` has a flag for each stage; all stages have the layer by default.
    """

    cfg: Required[Mapping[str, Any]]
    position: Required[Literal["after_conv1", "after_conv2", "after_conv3"]]
    stages: Sequence[bool] | None


class ResNetArguments(TypedDict, total=False):
    """Arguments of all variants of `ResNet`, but for the depth."""

    in_channels: PositiveInt
    stem_channels: PositiveInt
    base_channels: PositiveInt
    num_stages: PositiveInt
    strides: Sequence[PositiveInt]
    dilations: Sequence[PositiveInt]
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
    out_stem: bool
    output_stride: OutputStride


class PlainResNetArguments(ResNetArguments, total=False):
    """Arguments of `ResNet`: also those that are fixed in the variants C and D."""

    deep_stem: bool
    avg_down: bool


class ResNet(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``.

    With the default strides the maps are at 1/4, 1/8, 1/16 and 1/32 of the image. For dense prediction the last stages
    usually have stride 1 and are dilated instead, which keeps the resolution and the receptive field. Odd sizes are
    rounded up.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: Channels of the image.
        stem_channels: Output channels of the stem.
        base_channels: Width of the first stage, doubled in each further one; a bottleneck has four times as many output
            channels.
        num_stages: Stages to build, 1 to 4.
        strides: Stride of each stage.
        dilations: Dilation of the 3x3 convolutions of each stage.
        out_indices: The stages to return, counted from 0.
        style: Which convolution of a bottleneck has the stride: ``pytorch`` the 3x3, ``caffe`` the first 1x1.
        deep_stem: Three 3x3 convolutions instead of one 7x7, ResNet-C.
        avg_down: Shortcuts average before their convolution, ResNet-D.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        norm_eval: Keep batch norm in evaluation mode while training.
        dcn: Deformable 3x3 convolutions in bottlenecks: ``{type: DCNv2, deform_groups: 1}``, or ``DCN`` for version 1;
            with ``fallback_on_stride: true``, those with a stride stay ordinary.
        stage_with_dcn: Whether each stage has them.
        plugins: Layers inside the bottlenecks: ``{cfg: {type: ContextBlock, ratio: 0.25}, position: after_conv3}``.
        multi_grid: Dilation of each block of the last stage, in place of that stage's.
        contract_dilation: The first block of a stage has half the dilation of the others.
        with_cp: Activation checkpointing of the blocks.
        zero_init_residual: Start each block as the identity.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        stem_norm_cfg: Norm of the stem, such as ``{type: IN, affine: true}`` against changes of colour and contrast;
            ``norm_cfg`` for None.
        stage_norm_cfgs: Norm of each stage; ``norm_cfg`` for None, alone or in the list.
        out_stem: Return the stem's map of stride 2 as well, before those of ``out_indices``, for decoders that restore
            fine detail.
        output_stride: Stride of the last stage, for the default ``strides`` and ``dilations``: all convolutions of
            stages that would exceed it are dilated, where ``dilations`` leaves out the second one of a basic block.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    variants: ClassVar[Variants] = VARIANTS
    block_options: Mapping[str, Any] = {}
    """Further arguments of each bottleneck; a subclass sets it before this constructor runs."""
    fixed_arguments: ClassVar[frozenset[str]] = frozenset()
    pyramid: ClassVar[Mapping[int, Mapping[str, Any]]] = {
        5: {"out_stem": True},
        4: {"out_stem": True, "num_stages": 3, "strides": (1, 2, 2), "dilations": (1,) * 3, "out_indices": (0, 1, 2)},
        3: {"out_stem": True, "num_stages": 2, "strides": (1, 2), "dilations": (1,) * 2, "out_indices": (0, 1)},
    }
    conformance: ClassVar[Any] = (
        {"depth": 18, "base_channels": 8, "stem_channels": 8},
        {"depth": 50, "base_channels": 8, "strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
    )

    def __init__(
        self,
        depth: Depth,
        in_channels: PositiveInt = 3,
        stem_channels: PositiveInt = 64,
        base_channels: PositiveInt = 64,
        num_stages: PositiveInt = 4,
        strides: Sequence[PositiveInt] = (1, 2, 2, 2),
        dilations: Sequence[PositiveInt] = (1, 1, 1, 1),
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
        out_stem: bool = False,
        output_stride: OutputStride = 32,
    ) -> None:
        super().__init__()
        _check_network(depth, self.variants, num_stages, strides, dilations, style)
        block, num_blocks = self.variants[depth]
        if output_stride < 32 and (avg_down or dcn or max(dilations) > 1):
            raise ConfigError(Problem("is for networks without avg_down, dcn and dilations", "output_stride"))
        _check_extras(block, num_stages, conv_cfg, dcn, stage_with_dcn, plugins, stage_norm_cfgs)
        self.num_stages = num_stages
        self.out_indices = check_out_indices(out_indices, num_stages)
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, num_stages)
        self.norm_eval, self.pretrained = norm_eval, pretrained
        self._add_stem(in_channels, stem_channels, deep_stem, conv_cfg, stem_norm_cfg or norm_cfg)

        stage_channels = [stem_channels]
        for i in range(num_stages):
            options: dict[str, Any] = {"with_cp": with_cp}
            if issubclass(block, Bottleneck):
                options |= {
                    "style": style,
                    "dcn": dcn if dcn and stage_with_dcn[i] else None,
                    "plugins": [plugin for plugin in plugins or () if _is_in_stage(plugin, i)],
                    **self.block_options,
                }
            stage = residual_stage(
                block,
                stage_channels[-1],
                base_channels * 2**i,
                _block_dilations(
                    num_blocks[i], dilations[i], multi_grid if i == num_stages - 1 else None, contract_dilation
                ),
                stride=strides[i],
                avg_down=avg_down,
                conv_cfg=conv_cfg,
                norm_cfg=(stage_norm_cfgs[i] if stage_norm_cfgs else None) or norm_cfg,
                **options,
            )
            self.add_module(f"layer{i + 1}", stage)
            stage_channels.append(base_channels * 2**i * block.expansion)
        self.out_stem = out_stem
        self.channels = (stem_channels,) * out_stem + tuple(stage_channels[i + 1] for i in self.out_indices)
        reductions = [4 * math.prod(strides[: i + 1]) for i in range(num_stages)]
        self.strides = (2,) * out_stem + tuple(min(reductions[i], output_stride) for i in self.out_indices)
        for part, stride in zip(self.stages, reductions, strict=True):
            if stride > output_stride:
                dilate(part, stride // output_stride)
        if zero_init_residual:
            zero_last_norms(self)
        self.freeze_stages()

    @property
    def norm1(self) -> nn.Module:
        """The norm of the stem, if that is a single convolution."""
        return getattr(self, self.norm1_name)

    @property
    def stages(self) -> list[nn.Module]:
        """``layer1``, ``layer2``, ..."""
        return [getattr(self, f"layer{i + 1}") for i in range(self.num_stages)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_stem`` and ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x = self.stem(images) if self.deep_stem else self.relu(self.norm1(self.conv1(images)))
        stem = (x,) * self.out_stem
        x = self.maxpool(x)
        outputs = {}
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:  # others take no memory afterwards
                outputs[i] = x
        return stem + tuple(outputs[i] for i in self.out_indices)

    def frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        stem: list[nn.Module] = [self.stem] if self.deep_stem else [self.conv1, self.norm1]
        return stem + self.stages[: self.frozen_stages]

    def _add_stem(
        self, in_channels: int, channels: int, deep: bool, conv_cfg: Mapping[str, Any] | None, norm_cfg: NormConfig
    ) -> None:
        self.deep_stem = deep
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        if not deep:
            self.conv1 = conv_no_bias(conv_cfg, in_channels, channels, 7, stride=2, padding=3)
            self.norm1_name, norm1 = build_norm(norm_cfg, channels, postfix=1)
            self.add_module(self.norm1_name, norm1)
            return
        half = channels // 2
        self.stem = nn.Sequential(
            conv_no_bias(conv_cfg, in_channels, half, 3, stride=2, padding=1),
            build_norm(norm_cfg, half)[1],
            nn.ReLU(inplace=True),
            conv_no_bias(conv_cfg, half, half, 3, padding=1),
            build_norm(norm_cfg, half)[1],
            nn.ReLU(inplace=True),
            conv_no_bias(conv_cfg, half, channels, 3, padding=1),
            build_norm(norm_cfg, channels)[1],
            nn.ReLU(inplace=True),
        )


class ResNetV1c(ResNet):
    """`ResNet` with three 3x3 convolutions as its stem, ResNet-C."""

    fixed_arguments = frozenset({"deep_stem", "avg_down"})

    def __init__(self, depth: Depth, **kwargs: Unpack[ResNetArguments]) -> None:
        super().__init__(depth, deep_stem=True, avg_down=False, **kwargs)


class ResNetV1d(ResNet):
    """`ResNetV1c` whose shortcuts average instead of dropping pixels, ResNet-D."""

    fixed_arguments = frozenset({"deep_stem", "avg_down"})

    def __init__(self, depth: Depth, **kwargs: Unpack[ResNetArguments]) -> None:
        super().__init__(depth, deep_stem=True, avg_down=True, **kwargs)


@factory
def resnet18(**kwargs: Unpack[PlainResNetArguments]) -> ResNet:
    """`ResNet` of depth 18, 11.2 M parameters."""
    return ResNet(18, **kwargs)


@factory
def resnet34(**kwargs: Unpack[PlainResNetArguments]) -> ResNet:
    """`ResNet` of depth 34, 21.3 M parameters."""
    return ResNet(34, **kwargs)


@factory
def resnet50(**kwargs: Unpack[PlainResNetArguments]) -> ResNet:
    """`ResNet` of depth 50, 23.5 M parameters."""
    return ResNet(50, **kwargs)


@factory
def resnet101(**kwargs: Unpack[PlainResNetArguments]) -> ResNet:
    """`ResNet` of depth 101, 42.5 M parameters."""
    return ResNet(101, **kwargs)


@factory
def resnet152(**kwargs: Unpack[PlainResNetArguments]) -> ResNet:
    """`ResNet` of depth 152, 58.1 M parameters."""
    return ResNet(152, **kwargs)


def _block_dilations(blocks: int, dilation: int, multi_grid: Sequence[int] | None, contract: bool) -> list[int]:
    """Return the dilation of each block of a stage."""
    if multi_grid is None:
        first = dilation // 2 if contract and dilation > 1 else dilation
        return [first] + [dilation] * (blocks - 1)
    if len(multi_grid) < blocks:
        message = f"{list(multi_grid)} needs {blocks} numbers, one for each block of the last stage"
        raise ConfigError(Problem(message, "multi_grid"))
    # In place of the stage's dilation, as in MMSegmentation; DeepLabv3 multiplies the two.
    return list(multi_grid[:blocks])


def _is_in_stage(plugin: PluginConfig, stage: int) -> bool:
    stages = plugin.get("stages")
    return stages is None or bool(stages[stage])


def _check_network(
    depth: int,
    variants: Variants,
    num_stages: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    style: str,
) -> None:
    if depth not in variants:
        raise ConfigError(Problem(f"{depth} is not one of {', '.join(map(str, variants))}", "depth"))
    if not 1 <= num_stages <= 4:
        raise ConfigError(Problem(f"{num_stages} is not 1 to 4", "num_stages"))
    check_per_stage(num_stages, {"strides": strides, "dilations": dilations})
    if style not in get_args(Style):
        raise ConfigError(Problem(f"{style!r} is not {' or '.join(get_args(Style))}", "style"))


def _check_extras(
    block: Block,
    num_stages: int,
    conv_cfg: Mapping[str, Any] | None,
    dcn: Mapping[str, Any] | None,
    stage_with_dcn: Sequence[bool],
    plugins: Sequence[PluginConfig] | None,
    stage_norm_cfgs: Sequence[NormConfig | None] | None,
) -> None:
    if block is BasicBlock and (dcn or plugins):
        hint = "networks of depth 50 and more have bottlenecks"
        raise ConfigError(Problem("only bottlenecks have it", "dcn" if dcn else "plugins", hint=hint))
    if dcn and conv_cfg:
        raise ConfigError(Problem("it would replace the type of conv_cfg", "dcn", hint="leave out one of the two"))
    lists = {"stage_with_dcn": stage_with_dcn if dcn else None, "stage_norm_cfgs": stage_norm_cfgs}
    lists |= {f"plugins[{i}].stages": plugin.get("stages") for i, plugin in enumerate(plugins or ())}
    for name, values in lists.items():
        if values is not None and len(values) != num_stages:
            raise ConfigError(Problem(f"{len(values)} entries for {num_stages} stages", name))
    for i, plugin in enumerate(plugins or ()):
        if (position := plugin.get("position")) not in POSITIONS:
            raise ConfigError(Problem(f"{position!r} is not one of {', '.join(POSITIONS)}", f"plugins[{i}].position"))
