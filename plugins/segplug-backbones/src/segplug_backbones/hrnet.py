"""HRNet: branches of several resolutions in parallel, which exchange their features again and again.

    features = hrnet_w18()(torch.rand(2, 3, 512, 512))  # 18, 36, 72, 144 channels at strides 4, 8, 16, 32

Deep High-Resolution Representation Learning for Visual Recognition, Wang et al., 2020
(https://arxiv.org/abs/1908.07919).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import FreezableBackbone, LayerConfig, build_norm, check_frozen_stages, resize
from segplug_backbones.factory import factory
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.residual import (
    BasicBlock,
    Bottleneck,
    conv_no_bias,
    residual_stage,
    zero_last_norms,
)

Block = type[BasicBlock] | type[Bottleneck]
BLOCKS: dict[str, Block] = {"BASIC": BasicBlock, "BOTTLENECK": Bottleneck}


class HRStage(TypedDict):
    """One stage: ``num_modules`` modules, each with ``num_branches`` branches and a fusion of them.

    ``num_blocks`` and ``num_channels`` have a number for each branch.
    """

    num_modules: int
    num_branches: int
    block: Literal["BASIC", "BOTTLENECK"]
    num_blocks: Sequence[PositiveInt]
    num_channels: Sequence[PositiveInt]


class HRStages(TypedDict):
    """The four stages; the first has one branch, and each further one adds a branch of half the resolution."""

    stage1: HRStage
    stage2: HRStage
    stage3: HRStage
    stage4: HRStage


def conv_norm(
    in_channels: int,
    channels: int,
    kernel_size: int,
    stride: int = 1,
    *,
    conv_cfg: LayerConfig | None,
    norm_cfg: LayerConfig,
) -> nn.Sequential:
    """Return a convolution, padded by half its kernel, and its norm."""
    conv = conv_no_bias(conv_cfg, in_channels, channels, kernel_size, stride=stride, padding=kernel_size // 2)
    return nn.Sequential(conv, build_norm(norm_cfg, channels)[1])


class HRModule(nn.Module):
    """Residual blocks on each branch, then a fusion: each branch becomes the sum of all, at its own resolution.

    A list of maps, branch i at 1 / 2^i of the first one's size, to as many maps or the first one only.

    Args:
        block: Class of the blocks.
        num_blocks: Blocks of each branch.
        in_channels: Input channels of each branch.
        num_channels: Channels of the blocks of each branch.
        multiscale_output: Return all branches, not the first one only.
        with_cp: Activation checkpointing of the blocks.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms.
    """

    def __init__(
        self,
        block: Block,
        num_blocks: Sequence[int],
        in_channels: Sequence[int],
        num_channels: Sequence[int],
        multiscale_output: bool = True,
        *,
        with_cp: bool,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        self.branches = nn.ModuleList(
            residual_stage(block, inputs, channels, [1] * count, with_cp=with_cp, **layers)
            for inputs, channels, count in zip(in_channels, num_channels, num_blocks)
        )
        widths = [channels * block.expansion for channels in num_channels]
        self.fuse_layers = None
        if len(widths) > 1:
            targets = range(len(widths) if multiscale_output else 1)
            self.fuse_layers = nn.ModuleList(_fusion(widths, target, layers) for target in targets)
        self.relu = nn.ReLU(inplace=False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps)]
        if self.fuse_layers is None:
            return maps
        return [self.relu(_fuse(fusion, maps, target)) for target, fusion in enumerate(self.fuse_layers)]


def hrnet_stages(width: int, depth: int = 4, modules: Sequence[int] = (1, 1, 4, 3), first: int = 64) -> HRStages:
    """Return ``extra`` of the usual HRNet: each stage adds a branch of half the resolution and twice the channels.

    Args:
        width: Channels of the first branch, the W of the network's name.
        depth: Blocks of each branch.
        modules: Modules of each stage.
        first: Channels of the bottlenecks of the first stage.
    """
    stages: Any = {
        f"stage{i + 1}": {
            "num_modules": modules[i],
            "num_branches": i + 1,
            "block": "BASIC" if i else "BOTTLENECK",
            "num_blocks": [depth] * (i + 1),
            "num_channels": [width * 2**j for j in range(i + 1)] if i else [first],
        }
        for i in range(4)
    }
    return stages


class HRNet(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each branch of the last stage, at strides 4, 8, 16, 32, ...

    Odd sizes are rounded up.

    Args:
        extra: The four stages.
        in_channels: Channels of the image.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        norm_eval: Keep batch norm in evaluation mode while training.
        with_cp: Activation checkpointing of the blocks.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        zero_init_residual: Start each block as the identity.
        multiscale_output: Return the maps of all branches, not the finest one only.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {"extra": hrnet_stages(4, depth=1, modules=(1, 1, 2, 1), first=8)}

    def __init__(
        self,
        extra: HRStages,
        in_channels: PositiveInt = 3,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN", "requires_grad": True},
        norm_eval: bool = False,
        with_cp: bool = False,
        frozen_stages: int = -1,
        zero_init_residual: bool = False,
        multiscale_output: bool = True,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        stage1, *stages = _check_stages(extra)
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, 4)
        self.norm_eval, self.pretrained = norm_eval, pretrained
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        self._add_stem(in_channels, conv_cfg, norm_cfg)
        block, width = BLOCKS[stage1["block"]], stage1["num_channels"][0]
        self.layer1 = residual_stage(block, 64, width, [1] * stage1["num_blocks"][0], with_cp=with_cp, **layers)
        widths = [width * block.expansion]
        for number, stage in enumerate(stages, start=2):
            expansion = BLOCKS[stage["block"]].expansion
            stage_widths = [width * expansion for width in stage["num_channels"]]
            self.add_module(f"transition{number - 1}", _transition(widths, stage_widths, layers))
            modules = _stage(stage, stage_widths, multiscale_output or number < 4, with_cp=with_cp, **layers)
            self.add_module(f"stage{number}", modules)
            widths = stage_widths
        self.channels = tuple(widths if multiscale_output else widths[:1])
        self.strides = tuple(4 * 2**i for i in range(len(self.channels)))
        if zero_init_residual:
            zero_last_norms(self)
        self.freeze_stages()

    @property
    def norm1(self) -> nn.Module:
        return getattr(self, self.norm1_name)

    @property
    def norm2(self) -> nn.Module:
        return getattr(self, self.norm2_name)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x = self.relu(self.norm1(self.conv1(images)))
        x = self.relu(self.norm2(self.conv2(x)))
        maps = [self.layer1(x)]
        for i in (2, 3, 4):
            transition = getattr(self, f"transition{i - 1}")
            # New branches start from the coarsest map so far.
            sources = [maps[min(j, len(maps) - 1)] for j in range(len(transition))]
            maps = [x if change is None else change(x) for change, x in zip(transition, sources)]
            maps = getattr(self, f"stage{i}")(maps)
        return tuple(maps)

    def frozen_modules(self) -> list[nn.Module]:
        """Return the stem and the frozen stages, each with the transition after it."""
        if self.frozen_stages < 0:
            return []
        modules = [self.conv1, self.norm1, self.conv2, self.norm2]
        for i in range(1, self.frozen_stages + 1):
            modules.append(self.layer1 if i == 1 else getattr(self, f"stage{i}"))
            if i < 4:
                modules.append(getattr(self, f"transition{i}"))
        return modules

    def _add_stem(self, in_channels: int, conv_cfg: LayerConfig | None, norm_cfg: LayerConfig) -> None:
        self.conv1 = conv_no_bias(conv_cfg, in_channels, 64, 3, stride=2, padding=1)
        self.norm1_name, norm1 = build_norm(norm_cfg, 64, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.conv2 = conv_no_bias(conv_cfg, 64, 64, 3, stride=2, padding=1)
        self.norm2_name, norm2 = build_norm(norm_cfg, 64, postfix=2)
        self.add_module(self.norm2_name, norm2)
        self.relu = nn.ReLU(inplace=True)


@factory
def hrnet_w18_small(in_channels: int = 3, pretrained: str | None = None) -> HRNet:
    """HRNet-W18-small: half the depth of `hrnet_w18`; 3.9 M parameters."""
    return HRNet(hrnet_stages(18, depth=2, modules=(1, 1, 3, 2)), in_channels, pretrained=pretrained)


@factory
def hrnet_w18(in_channels: int = 3, pretrained: str | None = None) -> HRNet:
    """HRNetV2-W18, 9.6 M parameters."""
    return HRNet(hrnet_stages(18), in_channels, pretrained=pretrained)


@factory
def hrnet_w32(in_channels: int = 3, pretrained: str | None = None) -> HRNet:
    """HRNetV2-W32, 29.3 M parameters."""
    return HRNet(hrnet_stages(32), in_channels, pretrained=pretrained)


@factory
def hrnet_w40(in_channels: int = 3, pretrained: str | None = None) -> HRNet:
    """HRNetV2-W40, 45.5 M parameters."""
    return HRNet(hrnet_stages(40), in_channels, pretrained=pretrained)


@factory
def hrnet_w48(in_channels: int = 3, pretrained: str | None = None) -> HRNet:
    """HRNetV2-W48, 65.3 M parameters."""
    return HRNet(hrnet_stages(48), in_channels, pretrained=pretrained)


def _strided_path(widths: Sequence[int], inplace: bool, last_act: bool, layers: Mapping[str, Any]) -> nn.Sequential:
    """Return 3x3 convolutions of stride 2 from each width to the next, with ReLUs between them and maybe at the end."""
    steps = [conv_norm(inputs, outputs, 3, stride=2, **layers) for inputs, outputs in pairwise(widths)]
    for step in steps if last_act else steps[:-1]:
        step.append(nn.ReLU(inplace=inplace))
    return nn.Sequential(*steps)


def _fusion(widths: Sequence[int], target: int, layers: Mapping[str, Any]) -> nn.ModuleList:
    """Return modules that map each branch to the channels and size of branch ``target``."""
    # The unchanged branch keeps an empty place, which state-dict keys count.
    changes: list[nn.Module | None] = []
    for source, width in enumerate(widths):
        if source == target:
            changes.append(None)
        elif source > target:
            changes.append(conv_norm(width, widths[target], 1, **layers))
        else:
            # Channels change in the last convolution only, and none follows it with a ReLU: the sum comes first.
            path = [width] * (target - source) + [widths[target]]
            changes.append(_strided_path(path, inplace=False, last_act=False, layers=layers))
    return nn.ModuleList(changes)  # type: ignore[arg-type]  # torch takes None, an empty place


def _fuse(fusion: nn.Module, maps: Sequence[Tensor], target: int) -> Tensor:
    """Return the sum of all branches at the size of branch ``target``."""
    assert isinstance(fusion, nn.ModuleList)
    total: Tensor | None = None
    for source, (change, x) in enumerate(zip(fusion, maps)):
        if source != target:
            x = change(x)
        if source > target:
            # As in the reference, first by the nominal factor and then to the actual size; the two differ if a size
            # was odd.
            factor = 2 ** (source - target)
            x = resize(x, (x.shape[2] * factor, x.shape[3] * factor))
            x = resize(x, maps[target].shape[2:])
        total = x if total is None else total + x
    assert total is not None
    return total


def _transition(before: Sequence[int], after: Sequence[int], layers: Mapping[str, Any]) -> nn.ModuleList:
    """Return what makes the branches of the next stage, None for a branch that does not change."""
    changes: list[nn.Module | None] = []
    for i, width in enumerate(after):
        if i >= len(before):
            path = [before[-1]] * (i + 1 - len(before)) + [width]
            changes.append(_strided_path(path, inplace=True, last_act=True, layers=layers))
        elif width != before[i]:
            changes.append(conv_norm(before[i], width, 3, **layers).append(nn.ReLU(inplace=True)))
        else:
            changes.append(None)
    return nn.ModuleList(changes)  # type: ignore[arg-type]  # torch takes None, an empty place


def _stage(stage: HRStage, widths: Sequence[int], multiscale_output: bool, **layers: Any) -> nn.Sequential:
    last = stage["num_modules"] - 1
    return nn.Sequential(
        *(
            HRModule(
                BLOCKS[stage["block"]],
                stage["num_blocks"],
                in_channels=widths,
                num_channels=stage["num_channels"],
                multiscale_output=multiscale_output or i < last,  # modules exchange all branches but the last one
                **layers,
            )
            for i in range(last + 1)
        )
    )


def _check_stages(extra: HRStages) -> list[HRStage]:
    """Return the stages in order."""
    stages = []
    for name in ("stage1", "stage2", "stage3", "stage4"):
        if name not in extra:
            raise ConfigError(Problem(f"{name} is missing", "extra", hint="HRNet has stage1, stage2, stage3, stage4"))
        stage: HRStage = extra[name]
        branches = stage["num_branches"]
        for key in ("num_blocks", "num_channels"):
            values: Sequence[int] = stage[key]
            if len(values) != branches:
                message = f"{list(values)} for {branches} branches; one number each is needed"
                raise ConfigError(Problem(message, f"extra.{name}.{key}"))
        if stage["block"] not in BLOCKS:
            raise ConfigError(Problem(f"{stage['block']!r} is not {' or '.join(BLOCKS)}", f"extra.{name}.block"))
        stages.append(stage)
    return stages
