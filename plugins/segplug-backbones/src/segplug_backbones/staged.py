"""`StagedBackbone`: a stem and stages, as most networks for mobile devices are built, with one map for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.errors import ConfigError, Problem, suggest
from segkernel.nn import (
    ConvModule,
    FreezableBackbone,
    LayerConfig,
    check_frozen_stages,
    check_out_indices,
    checkpoint_block,
)
from segplug_backbones.pretrained import Pretrained

T = TypeVar("T")


class StagedArguments(TypedDict, total=False):
    """Arguments of `StagedBackbone` that its subclasses forward."""

    out_indices: Sequence[int]
    frozen_stages: int
    norm_eval: bool
    with_cp: bool
    pretrained: str | None


class StagedBackbone(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    Args:
        stem: The first layers.
        stages: The stages, each on the result of the one before.
        channels: Channels of every map that can be returned: those of the stages, before them that of the stem if there
            is one more than stages.
        first_stride: Stride of the first of these maps; each further stage doubles it.
        out_indices: The maps to return.
        frozen_stages: -1 freezes nothing, 0 the stem, n also the first n stages.
        norm_eval: Keep batch norm in evaluation mode while training.
        with_cp: Activation checkpointing of each stage: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.

    Raises:
        ConfigError: When an argument is out of range.
    """

    fixed_arguments: ClassVar = ("stem", "stages", "channels", "first_stride")

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        first_stride: int = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.out_indices = check_out_indices(out_indices, len(channels))
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, len(stages))
        self.norm_eval, self.with_cp, self.pretrained = norm_eval, with_cp, pretrained
        self.returns_stem = len(channels) > len(stages)
        self.stem, self.stages = stem, nn.ModuleList(stages)
        self.channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple(first_stride * 2**i for i in self.out_indices)
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x = self.stem(images)
        maps = [x] if self.returns_stem else []
        for stage in self.stages:
            x = checkpoint_block(stage, x, enabled=self.with_cp)
            maps.append(x)
        return tuple(maps[i] for i in self.out_indices)

    def frozen_modules(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.stem, *self.stages[: self.frozen_stages]]


def find_arch(arch: str | Mapping[str, Any] | T, archs: Mapping[str, T]) -> T:
    """Return the published architecture of a name, or a custom one.

    Args:
        arch: The name, an architecture, or its values by name.
        archs: Published architectures.

    Raises:
        ConfigError: There is none of this name, or a value is missing or has another name.
    """
    if isinstance(arch, str):
        if arch not in archs:
            message = f"{arch!r} is not one of {', '.join(archs)}"
            raise ConfigError(Problem(message, "arch", hint=suggest(arch, archs)))
        return archs[arch]
    if not isinstance(arch, Mapping):
        return arch
    try:
        return type(next(iter(archs.values())))(**arch)
    except TypeError as error:
        raise ConfigError(Problem(f"{dict(arch)}: {error}", "arch")) from error


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    norm_cfg: LayerConfig | None = None,
    act_cfg: LayerConfig | None = None,
) -> ConvModule:
    """Return a convolution with bias, then a norm and an activation if there are any."""
    return ConvModule(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=True,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    )


class LayerScale(nn.Module):
    """Multiply each channel of (N, C, H, W) with a parameter ``gamma``; Touvron et al., 2021.

    Args:
        shape: C, or (C, 1, 1).
        init_value: Initial value of the parameter.
    """

    def __init__(self, *shape: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full(shape, float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.view(-1, 1, 1)
