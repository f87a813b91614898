"""PoolFormer: a transformer with average pooling in place of attention.

    features = PoolFormer("s12", out_indices=(0, 2, 4, 6))(torch.rand(2, 3, 512, 512))
    # 64, 128, 320, 512 channels at strides 4, 8, 16, 32

MetaFormer Is Actually What You Need for Vision, Yu et al., 2022 (https://arxiv.org/abs/2111.11418).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import NonNegative, NonNegativeInt, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    DropPath,
    FreezableBackbone,
    LayerConfig,
    build_activation,
    build_norm,
    check_frozen_stages,
    check_out_indices,
    linear_drop_path_rates,
)
from segplug_backbones.pretrained import Pretrained


class PoolFormerArch(TypedDict):
    """A custom architecture: blocks, channels and MLP ratio of each stage, and the initial layer scale."""

    layers: Sequence[int]
    embed_dims: Sequence[PositiveInt]
    mlp_ratios: Sequence[PositiveInt]
    layer_scale_init_value: NonNegative


def _arch(layers: Sequence[int], embed_dims: Sequence[int], scale: float) -> PoolFormerArch:
    return {"layers": layers, "embed_dims": embed_dims, "mlp_ratios": (4, 4, 4, 4), "layer_scale_init_value": scale}


ARCHS: dict[str, PoolFormerArch] = {
    "s12": _arch((2, 2, 6, 2), (64, 128, 320, 512), 1e-5),
    "s24": _arch((4, 4, 12, 4), (64, 128, 320, 512), 1e-5),
    "s36": _arch((6, 6, 18, 6), (64, 128, 320, 512), 1e-6),
    "m36": _arch((6, 6, 18, 6), (96, 192, 384, 768), 1e-6),
    "m48": _arch((8, 8, 24, 8), (96, 192, 384, 768), 1e-6),
}
Arch = Literal["s12", "s24", "s36", "m36", "m48"]


class PatchEmbed(nn.Module):
    """Overlapping patches: (N, in_channels, H, W) -> (N, embed_dims, ~H/stride, ~W/stride)."""

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Pooling(nn.Module):
    """Average pooling minus the input, as the block has a residual connection: (N, C, H, W) -> the same shape."""

    def __init__(self, pool_size: int = 3) -> None:
        super().__init__()
        # Algorithm 1 of the paper: at borders the mean is over the pixels that exist, so that a constant map gives 0.
        self.pool = nn.AvgPool2d(pool_size, stride=1, padding=pool_size // 2, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) - x


class Mlp(nn.Module):
    """Feed-forward network of 1x1 convolutions: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, hidden: int, act_cfg: LayerConfig, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.act = build_activation(act_cfg)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class PoolFormerBlock(nn.Module):
    """Pooling and an MLP, each after a norm and with layer scale: (N, C, H, W) -> the same shape."""

    def __init__(
        self,
        channels: int,
        *,
        pool_size: int,
        mlp_ratio: float,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
        drop_rate: float,
        drop_path_rate: float,
        layer_scale_init_value: float,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm_cfg, channels)[1]
        self.token_mixer = Pooling(pool_size)
        self.norm2 = build_norm(norm_cfg, channels)[1]
        self.mlp = Mlp(channels, int(channels * mlp_ratio), act_cfg, drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), layer_scale_init_value))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), layer_scale_init_value))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1.view(1, -1, 1, 1) * self.token_mixer(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2.view(1, -1, 1, 1) * self.mlp(self.norm2(x)))


class PoolFormer(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 4, 8, 16, 32 by default.

    Args:
        arch: A name, or ``{layers, embed_dims, mlp_ratios, layer_scale_init_value}``, the first three with a number
            for each stage.
        pool_size: Side of the pooling in pixels; odd.
        norm_cfg: Type of the norms and its arguments; one group is the paper's modified layer norm, over channels and
            pixels.
        act_cfg: Type of the activations.
        in_patch_size: Kernel size of the patch embedding in pixels.
        in_stride: Stride of the patch embedding.
        in_pad: Padding of the patch embedding.
        down_patch_size: Kernel size of the patch embeddings between stages.
        down_stride: Stride of the patch embeddings between stages.
        down_pad: Padding of the patch embeddings between stages.
        drop_rate: Dropout rate in the MLPs.
        drop_path_rate: Drop path rate of the last layer; it rises linearly from 0 at the first one.
        out_indices: The entries of ``network`` to return, counted from 0, negative ones from the end. Stages and the
            patch embeddings between them take turns: stages are 0, 2, 4 and 6.
        frozen_stages: -1 freezes nothing, 0 the patch embedding (mmpretrain's default), n also the first n entries of
            ``network``.
        in_channels: Channels of the image.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    pyramid: ClassVar[Mapping[int, Mapping[str, Any]]] = {
        depth: {"out_indices": tuple(range(0, 2 * depth - 2, 2))} for depth in (3, 4, 5)
    }
    conformance: ClassVar = {
        "arch": {"layers": [1, 1, 2, 1], "embed_dims": [4, 4, 8, 8], "mlp_ratios": [2] * 4,
                 "layer_scale_init_value": 0.1},
        "out_indices": [0, 2, 4],
        "frozen_stages": -1,
    }  # fmt: skip

    def __init__(
        self,
        arch: Arch | PoolFormerArch = "s12",
        pool_size: PositiveInt = 3,
        norm_cfg: Mapping[str, Any] = {"type": "GN", "num_groups": 1},
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        in_patch_size: PositiveInt = 7,
        in_stride: PositiveInt = 4,
        in_pad: NonNegativeInt = 2,
        down_patch_size: PositiveInt = 3,
        down_stride: PositiveInt = 2,
        down_pad: NonNegativeInt = 1,
        drop_rate: Probability = 0.0,
        drop_path_rate: Probability = 0.0,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = 0,
        in_channels: PositiveInt = 3,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        settings = _settings(arch)
        layers, widths = settings["layers"], settings["embed_dims"]
        self.pretrained = pretrained
        self.patch_embed = PatchEmbed(in_channels, widths[0], in_patch_size, in_stride, in_pad)
        drop_path_rates = iter(linear_drop_path_rates(drop_path_rate, sum(layers)))
        parts: list[tuple[nn.Module, int, int]] = []  # the entries of ``network``, their output channels and strides
        stride = in_stride
        for i, width in enumerate(widths):
            # As in mmpretrain, equal widths mean no embedding and no downsampling, which shifts `out_indices`.
            if i and width != widths[i - 1]:
                stride *= down_stride
                downsample = PatchEmbed(widths[i - 1], width, down_patch_size, down_stride, down_pad)
                parts.append((downsample, width, stride))
            blocks = (
                PoolFormerBlock(
                    width,
                    pool_size=pool_size,
                    mlp_ratio=settings["mlp_ratios"][i],
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                    drop_rate=drop_rate,
                    drop_path_rate=next(drop_path_rates),
                    layer_scale_init_value=settings["layer_scale_init_value"],
                )
                for _ in range(layers[i])
            )
            parts.append((nn.Sequential(*blocks), width, stride))
        self.network = nn.ModuleList(part for part, _, _ in parts)
        self.out_indices = tuple(sorted(check_out_indices(out_indices, len(parts), from_end=True)))
        for i in self.out_indices:
            self.add_module(f"norm{i}", build_norm(norm_cfg, parts[i][1])[1])
        self.channels = tuple(parts[i][1] for i in self.out_indices)
        self.strides = tuple(parts[i][2] for i in self.out_indices)
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, len(parts))
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = self.patch_embed(images), []
        for i, part in enumerate(self.network):
            x = part(x)
            if i in self.out_indices:
                outputs.append(getattr(self, f"norm{i}")(x))
        return tuple(outputs)

    def frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.patch_embed, *self.network[: self.frozen_stages]]


def _settings(arch: str | PoolFormerArch) -> PoolFormerArch:
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise ConfigError(Problem(f"{arch!r} is not one of {', '.join(ARCHS)}", "arch"))
        return ARCHS[arch.lower()]
    if missing := PoolFormerArch.__required_keys__ - arch.keys():
        raise ConfigError(Problem(f"{', '.join(sorted(missing))} missing", "arch"))
    counts = {key: len(cast(Any, arch)[key]) for key in ("layers", "embed_dims", "mlp_ratios")}
    if len(set(counts.values())) > 1:
        raise ConfigError(Problem(f"{counts} should be equal, one number for each stage", "arch"))
    return arch
