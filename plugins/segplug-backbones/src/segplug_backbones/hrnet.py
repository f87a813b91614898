"""HRNet: branches of several resolutions side by side, which exchange what they find again and again.

    features = hrnet_w18()(torch.rand(2, 3, 512, 512))  # 18, 36, 72, 144 channels at strides 4, 8, 16, 32

Reference: Deep High-Resolution Representation Learning for Visual Recognition, Wang et al., 2020
(https://arxiv.org/abs/1908.07919).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.errors import ConfigError, Problem
from segkernel.nn import build_conv, build_norm, kaiming_init, resize
from segplug_backbones.freezing import PartlyFrozen
from segplug_backbones.residual import BasicBlock, Block, Bottleneck

BLOCKS: dict[str, type[Block]] = {"BASIC": BasicBlock, "BOTTLENECK": Bottleneck}


class HRStage(TypedDict):
    """One stage: ``num_modules`` times all branches and an exchange; ``num_blocks`` and ``num_channels`` per branch."""

    num_modules: int
    num_branches: int
    block: Literal["BASIC", "BOTTLENECK"]
    num_blocks: Sequence[int]
    num_channels: Sequence[int]


class HRStages(TypedDict):
    """The four stages; the first has one branch, and each further one may add some."""

    stage1: HRStage
    stage2: HRStage
    stage3: HRStage
    stage4: HRStage


class Layers:
    """Makes the convolutions and blocks of one network.

    Args:
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm.
        with_cp: Compute activations of the blocks a second time in backward.
    """

    def __init__(self, conv_cfg: Mapping[str, Any] | None, norm_cfg: Mapping[str, Any], with_cp: bool) -> None:
        self.conv, self.norm = partial(build_conv, conv_cfg, bias=False), partial(build_norm, norm_cfg)
        self._options: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "with_cp": with_cp}

    def conv_norm(self, in_channels: int, channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        """Return a convolution and its norm."""
        conv = self.conv(in_channels, channels, kernel, stride=stride, padding=kernel // 2)
        return [conv, self.norm(channels)[1]]

    def blocks(self, block: type[Block], in_channels: int, channels: int, count: int) -> nn.Sequential:
        """Return a row of blocks, (N, in_channels, h, w) -> (N, channels * expansion, h, w)."""
        out_channels = channels * block.expansion
        shortcut = None if in_channels == out_channels else nn.Sequential(*self.conv_norm(in_channels, out_channels, 1))
        first = block(in_channels, channels, downsample=shortcut, **self._options)
        return nn.Sequential(first, *(block(out_channels, channels, **self._options) for _ in range(count - 1)))

    def descent(self, widths: Sequence[int], inplace: bool, last_act: bool) -> nn.Sequential:
        """Return strided 3x3 convolutions from each width to the next, with a ReLU after each but maybe the last."""
        steps = [nn.Sequential(*self.conv_norm(a, b, 3, stride=2)) for a, b in pairwise(widths)]
        for step in steps if last_act else steps[:-1]:
            step.append(nn.ReLU(inplace=inplace))
        return nn.Sequential(*steps)


class HRModule(nn.Module):
    """Blocks on each branch, then each branch becomes the sum of all, brought to its size.

    One map per branch, branch i at 1 / 2**i of the first, to as many maps, or to the first only.

    Args:
        layers: Makes the layers.
        block: Kind of block.
        num_blocks: Blocks of each branch.
        in_channels: Of each branch.
        num_channels: Width of each branch's blocks.
        multiscale_output: Return all branches, not the finest alone.
    """

    def __init__(
        self,
        layers: Layers,
        block: type[Block],
        num_blocks: Sequence[int],
        in_channels: Sequence[int],
        num_channels: Sequence[int],
        multiscale_output: bool = True,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            layers.blocks(block, *numbers) for numbers in zip(in_channels, num_channels, num_blocks)
        )
        widths = [channels * block.expansion for channels in num_channels]
        self.fuse_layers = None
        if len(widths) > 1:
            outputs = range(len(widths) if multiscale_output else 1)
            self.fuse_layers = nn.ModuleList(_exchange(layers, widths, target) for target in outputs)
        self.relu = nn.ReLU(inplace=False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps)]
        if self.fuse_layers is None:
            return maps
        return [self.relu(_sum(fuse, maps, target)) for target, fuse in enumerate(self.fuse_layers)]  # type: ignore[arg-type]


def hrnet_stages(width: int, depth: int = 4, modules: Sequence[int] = (1, 1, 4, 3), first: int = 64) -> HRStages:
    """Return ``extra`` of the usual HRNet: each stage has one branch more, of half the size and twice the width.

    Args:
        width: Channels of the finest branch.
        depth: Blocks of each branch.
        modules: Exchanges of each stage.
        first: Width of the first stage's bottlenecks.
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


class HRNet(PartlyFrozen):
    """Images (N, in_channels, H, W) to one map per branch of the last stage, at strides 4, 8, 16, 32, ...

    Odd sizes are rounded up.

    Args:
        extra: The four stages.
        in_channels: Channels of the image.
        conv_cfg: Kind of convolution; None is the ordinary one.
        norm_cfg: Kind of norm and its arguments.
        norm_eval: Keep batch norm in evaluation mode while training.
        with_cp: Compute activations a second time in backward, to save memory.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        zero_init_residual: Start each block as the identity.
        multiscale_output: Return the maps of all branches, not the finest alone.
        pretrained: Weights that the runner loads after building.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {"extra": hrnet_stages(4, depth=1, modules=(1, 1, 2, 1), first=8)}

    def __init__(
        self,
        extra: HRStages,
        in_channels: int = 3,
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
        stages: list[HRStage] = _check_stages(extra)
        if not -1 <= frozen_stages <= 4:
            raise ConfigError(Problem(f"{frozen_stages} is not -1 (nothing) to 4", "frozen_stages"))
        self.frozen_stages, self.norm_eval, self.pretrained = frozen_stages, norm_eval, pretrained
        layers = Layers(conv_cfg, norm_cfg, with_cp)
        self._add_stem(layers, in_channels)
        block = BLOCKS[stages[0]["block"]]
        self.layer1 = layers.blocks(block, 64, stages[0]["num_channels"][0], stages[0]["num_blocks"][0])
        widths = [stages[0]["num_channels"][0] * block.expansion]
        for i, stage in enumerate(stages[1:], start=2):
            before, widths = widths, [width * BLOCKS[stage["block"]].expansion for width in stage["num_channels"]]
            self.add_module(f"transition{i - 1}", _transition(layers, before, widths))
            self.add_module(f"stage{i}", _stage(layers, stage, widths, multiscale_output or i < 4))
        self.channels = tuple(widths if multiscale_output else widths[:1])
        self.strides = tuple(4 * 2**i for i in range(len(self.channels)))
        self._initialise(zero_init_residual)
        self._freeze()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x = images
        for module in self._stem():
            x = module(x)
        maps = [self.layer1(x)]
        for i in (2, 3, 4):
            transition = getattr(self, f"transition{i - 1}")
            # A new branch starts from the coarsest there is.
            sources = [maps[min(j, len(maps) - 1)] for j in range(len(transition))]
            maps = [x if change is None else change(x) for change, x in zip(transition, sources)]
            maps = getattr(self, f"stage{i}")(maps)
        return tuple(maps)

    def _add_stem(self, layers: Layers, in_channels: int) -> None:
        self._norms = []
        for number, inputs in enumerate((in_channels, 64), start=1):
            self.add_module(f"conv{number}", layers.conv(inputs, 64, 3, stride=2, padding=1))
            name, norm = layers.norm(64, postfix=number)
            self.add_module(name, norm)
            self._norms.append(name)
        self.relu = nn.ReLU(inplace=True)

    def _stem(self) -> list[nn.Module]:
        first, second = (getattr(self, name) for name in self._norms)
        return [self.conv1, first, self.relu, self.conv2, second, self.relu]

    def _frozen(self) -> list[nn.Module]:
        """Return the stem and the frozen stages, each with the transition behind it."""
        names = [name for i in range(1, self.frozen_stages + 1) for name in (f"stage{i}", f"transition{i}")]
        names = ["layer1" if name == "stage1" else name for name in names if name != "transition4"]
        return (self._stem() if self.frozen_stages >= 0 else []) + [getattr(self, name) for name in names]

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_init(module)
            elif isinstance(module, Block) and zero_init_residual and hasattr(module.last_norm, "weight"):
                nn.init.zeros_(module.last_norm.weight)


def hrnet_w18_small(in_channels: int = 3) -> HRNet:
    """HRNet-W18-small: half the depth of `hrnet_w18`; 3.9 M parameters."""
    return HRNet(hrnet_stages(18, depth=2, modules=(1, 1, 3, 2)), in_channels)


def hrnet_w18(in_channels: int = 3) -> HRNet:
    """HRNetV2-W18, 9.6 M parameters."""
    return HRNet(hrnet_stages(18), in_channels)


def hrnet_w32(in_channels: int = 3) -> HRNet:
    """HRNetV2-W32, 29.3 M parameters."""
    return HRNet(hrnet_stages(32), in_channels)


def hrnet_w40(in_channels: int = 3) -> HRNet:
    """HRNetV2-W40, 45.5 M parameters."""
    return HRNet(hrnet_stages(40), in_channels)


def hrnet_w48(in_channels: int = 3) -> HRNet:
    """HRNetV2-W48, 65.3 M parameters."""
    return HRNet(hrnet_stages(48), in_channels)


def _exchange(layers: Layers, widths: Sequence[int], target: int) -> nn.ModuleList:
    """Return what brings each branch to the width and size of branch ``target``; the enlarging itself is `_sum`'s."""
    changes: list[nn.Module | None] = []
    for source, width in enumerate(widths):
        if source == target:
            changes.append(None)
        elif source > target:
            changes.append(nn.Sequential(*layers.conv_norm(width, widths[target], 1)))
        else:
            path = [width] * (target - source) + [widths[target]]
            changes.append(layers.descent(path, inplace=False, last_act=False))
    return nn.ModuleList(changes)


def _sum(fuse: nn.ModuleList, maps: Sequence[Tensor], target: int) -> Tensor:
    total: Tensor | None = None
    for source, (change, x) in enumerate(zip(fuse, maps)):
        if change is not None:
            x = change(x)
        if source > target:
            # First by the nominal factor, then to the true size: the two differ for odd sizes.
            factor = 2 ** (source - target)
            x = resize(x, (x.shape[2] * factor, x.shape[3] * factor))
            x = resize(x, maps[target].shape[2:])
        total = x if total is None else total + x
    assert total is not None
    return total


def _transition(layers: Layers, before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """Return what makes the branches of the next stage, None where a branch goes on as it is."""
    changes: list[nn.Module | None] = []
    for i, width in enumerate(after):
        if i >= len(before):
            path = [before[-1]] * (i + 1 - len(before)) + [width]
            changes.append(layers.descent(path, inplace=True, last_act=True))
        elif width != before[i]:
            changes.append(nn.Sequential(*layers.conv_norm(before[i], width, 3), nn.ReLU(inplace=True)))
        else:
            changes.append(None)
    return nn.ModuleList(changes)


def _stage(layers: Layers, stage: HRStage, widths: Sequence[int], multiscale_output: bool) -> nn.Sequential:
    last = stage["num_modules"] - 1
    return nn.Sequential(
        *(
            HRModule(
                layers,
                BLOCKS[stage["block"]],
                stage["num_blocks"],
                widths,
                stage["num_channels"],
                multiscale_output or i < last,
            )
            for i in range(last + 1)
        )
    )


def _check_stages(extra: HRStages) -> list[HRStage]:
    """Return the stages in order."""
    stages = []
    for name in ("stage1", "stage2", "stage3", "stage4"):
        if name not in extra:
            raise ConfigError(Problem(f"there is no {name}", "extra", hint="HRNet has stage1, stage2, stage3, stage4"))
        stage: HRStage = extra[name]  # type: ignore[literal-required]
        branches = stage["num_branches"]
        for key in ("num_blocks", "num_channels"):
            values: Sequence[int] = stage[key]  # type: ignore[literal-required]
            if len(values) != branches:
                message = f"{list(values)} for {branches} branches; one number each is needed"
                raise ConfigError(Problem(message, f"extra.{name}.{key}"))
        if stage["block"] not in BLOCKS:
            raise ConfigError(Problem(f"{stage['block']!r} is not {' or '.join(BLOCKS)}", f"extra.{name}.block"))
        stages.append(stage)
    return stages
