"""ConvNeXt: a pure convolutional network modernised towards the design of Swin Transformer.

    features = ConvNeXt("tiny", out_indices=(0, 1, 2, 3), gap_before_final_norm=False)(torch.rand(2, 3, 512, 512))
    # 96, 192, 384, 768 channels at strides 4, 8, 16, 32

A ConvNet for the 2020s, Liu et al., 2022 (https://arxiv.org/abs/2201.03545); with ``use_grn``: ConvNeXt V2,
Woo et al., 2023 (https://arxiv.org/abs/2301.00808). With ``out_norm=False``, the convolutional network of DINOv3
(https://arxiv.org/abs/2508.10104).

Licences of weights that are not open-source: ConvNeXt V2's authors, CC-BY-NC-4.0; DINOv3, the DINOv3 License.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    DropPath,
    FreezableBackbone,
    LayerConfig,
    build_activation,
    build_norm,
    check_frozen_stages,
    check_out_indices,
    checkpoint_block,
    linear_drop_path_rates,
    trunc_normal_init,
)
from segplug_backbones.pretrained import Pretrained

ARCHS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "huge": ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
"""Blocks and channels of each stage."""
Arch = Literal["atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge", "huge"]


class ConvNeXtArch(TypedDict):
    """A custom architecture: blocks and channels of each stage."""

    depths: Sequence[PositiveInt]
    channels: Sequence[PositiveInt]


class GRN(nn.Module):
    """Global response normalisation of (N, H, W, C), equations 1 to 3 of the second paper.

    Args:
        channels: C.
        eps: Added to the divisor.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        # With zeros the layer starts as the identity, by the residual connection of equation 3.
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        channel_norm = x.norm(p=2, dim=(1, 2), keepdim=True)
        response = channel_norm / (channel_norm.mean(dim=-1, keepdim=True) + self.eps)
        return self.gamma * (x * response) + self.beta + x


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7 convolution, norm and an inverted bottleneck, with a residual connection; figure 4 of the paper.

    (N, C, H, W) -> the same shape.

    Args:
        channels: C.
        norm_cfg: Type of the norm.
        act_cfg: Type of the activation.
        linear_pw_conv: Pointwise convolutions are linear layers on (N, H, W, C), which is faster on GPUs.
        use_grn: Global response normalisation, ConvNeXt V2.
        drop_path_rate: Drop path rate of the residual branch.
        layer_scale_init_value: Initial layer scale; 0 for no layer scale.
        with_cp: Activation checkpointing.
    """

    def __init__(
        self,
        channels: int,
        *,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
        linear_pw_conv: bool,
        use_grn: bool,
        drop_path_rate: float,
        layer_scale_init_value: float,
        with_cp: bool,
    ) -> None:
        super().__init__()
        hidden = 4 * channels
        self.linear_pw_conv, self.with_cp = linear_pw_conv, with_cp
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = build_norm(norm_cfg, channels)[1]
        self.pointwise_conv1 = nn.Linear(channels, hidden) if linear_pw_conv else nn.Conv2d(channels, hidden, 1)
        self.act = build_activation(act_cfg)
        self.grn = GRN(hidden) if use_grn else None
        self.pointwise_conv2 = nn.Linear(hidden, channels) if linear_pw_conv else nn.Conv2d(hidden, channels, 1)
        scale = torch.full((channels,), float(layer_scale_init_value))
        self.gamma = nn.Parameter(scale) if layer_scale_init_value > 0 else None
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_block(self, x, forward=self._forward, enabled=self.with_cp)

    def _forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise_conv(x))
        out = self._pointwise_linear(out) if self.linear_pw_conv else self._pointwise(out)
        if self.gamma is not None:
            out = out * self.gamma.view(1, -1, 1, 1)
        return x + self.drop_path(out)

    def _pointwise_linear(self, x: Tensor) -> Tensor:
        x = self.act(self.pointwise_conv1(x.permute(0, 2, 3, 1)))
        x = self.pointwise_conv2(x if self.grn is None else self.grn(x))
        return x.permute(0, 3, 1, 2)

    def _pointwise(self, x: Tensor) -> Tensor:
        x = self.act(self.pointwise_conv1(x))
        if self.grn is not None:
            x = self.grn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.pointwise_conv2(x)


class ConvNeXt(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 4, 8, 16, 32 by default.

    Odd sizes are rounded down.

    Args:
        arch: A name, or ``{depths, channels}`` with blocks and channels of each stage.
        in_channels: Channels of the image.
        stem_patch_size: Side and stride of the convolution of the stem in pixels.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
        linear_pw_conv: Pointwise convolutions are linear layers.
        use_grn: Global response normalisation, ConvNeXt V2.
        drop_path_rate: Drop path rate of the last layer; it rises linearly from 0 at the first one.
        layer_scale_init_value: Initial layer scale; 0 for no layer scale, as in ConvNeXt V2.
        out_indices: The stages to return, counted from 0, negative ones from the end.
        frozen_stages: 0 freezes nothing, n the first n stages with the layers before them.
        out_norm: Apply a layer norm to every output, as MMSegmentation and transformers do; the features of timm and
            of DINOv3 have none.
        gap_before_final_norm: Return the normalised global average of each map, (N, C), for classification. For dense
            prediction it must be False.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    pyramid: ClassVar[Mapping[int, Mapping[str, Any]]] = {
        depth: {"out_indices": tuple(range(depth - 1)), "gap_before_final_norm": False} for depth in (3, 4, 5)
    }
    conformance: ClassVar = (
        {"arch": {"depths": [1, 1, 2, 1], "channels": [4, 4, 8, 8]}, "out_indices": [0, 1, 2, 3],
         "gap_before_final_norm": False},
        {"arch": {"depths": [1, 1], "channels": [4, 8]}, "out_indices": [0, -1], "gap_before_final_norm": False,
         "use_grn": True, "linear_pw_conv": False, "layer_scale_init_value": 0.0, "stem_patch_size": 2},
    )  # fmt: skip

    def __init__(
        self,
        arch: Arch | ConvNeXtArch = "tiny",
        in_channels: PositiveInt = 3,
        stem_patch_size: PositiveInt = 4,
        norm_cfg: Mapping[str, Any] = {"type": "LN2d", "eps": 1e-6},
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        linear_pw_conv: bool = True,
        use_grn: bool = False,
        drop_path_rate: Probability = 0.0,
        layer_scale_init_value: NonNegative = 1e-6,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = 0,
        gap_before_final_norm: bool = True,
        with_cp: bool = False,
        out_norm: bool = True,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        depths, widths = _depths_and_widths(arch)
        self.out_indices = tuple(sorted(check_out_indices(out_indices, len(depths), from_end=True)))
        self.frozen_stages = check_frozen_stages(frozen_stages, 0, len(depths))
        self.gap_before_final_norm, self.pretrained = gap_before_final_norm, pretrained
        self.downsample_layers, self.stages = nn.ModuleList(), nn.ModuleList()
        drop_path_rates = iter(linear_drop_path_rates(drop_path_rate, sum(depths)))
        for i, (depth, width) in enumerate(zip(depths, widths)):
            if i == 0:
                stem = nn.Conv2d(in_channels, width, stem_patch_size, stride=stem_patch_size)
                self.downsample_layers.append(nn.Sequential(stem, build_norm(norm_cfg, width)[1]))
            else:
                # The norm comes first: without norms where the resolution changes, training diverged (section 2.6).
                downsample = nn.Conv2d(widths[i - 1], width, 2, stride=2)
                self.downsample_layers.append(nn.Sequential(build_norm(norm_cfg, widths[i - 1])[1], downsample))
            blocks = (
                ConvNeXtBlock(
                    width,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                    linear_pw_conv=linear_pw_conv,
                    use_grn=use_grn,
                    drop_path_rate=next(drop_path_rates),
                    layer_scale_init_value=layer_scale_init_value,
                    with_cp=with_cp,
                )
                for _ in range(depth)
            )
            self.stages.append(nn.Sequential(*blocks))
            if i in self.out_indices:
                self.add_module(f"norm{i}", build_norm(norm_cfg, width)[1] if out_norm else nn.Identity())
        self.channels = tuple(widths[i] for i in self.out_indices)
        self.strides = tuple(stem_patch_size * 2**i for i in self.out_indices)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                trunc_normal_init(module)
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = images, []
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages)):
            x = stage(downsample(x))
            if i in self.out_indices:
                norm = getattr(self, f"norm{i}")
                if self.gap_before_final_norm:
                    outputs.append(norm(x.mean((2, 3), keepdim=True)).flatten(1))
                else:
                    outputs.append(norm(x))
        return tuple(outputs)

    def layer_of(self, parameter: str, num_layers: int, stage_wise: bool = False) -> int | None:
        """Return how deep a parameter is, see `Backbone.layer_of`.

        Layer by layer it is the authors' scheme: in the third stage, three blocks are one layer.
        """
        part, *numbers = parameter.split(".")
        if part not in ("downsample_layers", "stages"):
            return None
        stage = int(numbers[0])
        if stage_wise:
            return stage + 1 if part == "stages" else 0
        if stage == 3:
            return num_layers
        if part == "stages" and stage == 2:
            return 3 + int(numbers[1]) // 3
        return (1, 2)[stage] if part == "stages" else (0, 2, 3)[stage]

    def frozen_modules(self) -> list[nn.Module]:
        return [*self.downsample_layers[: self.frozen_stages], *self.stages[: self.frozen_stages]]


def _depths_and_widths(arch: str | ConvNeXtArch) -> tuple[Sequence[int], Sequence[int]]:
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise ConfigError(Problem(f"{arch!r} is not one of {', '.join(ARCHS)}", "arch"))
        return ARCHS[arch.lower()]
    if "depths" not in arch or "channels" not in arch:
        raise ConfigError(Problem(f"{dict(arch)} should have depths and channels", "arch"))
    if len(arch["depths"]) != len(arch["channels"]):
        message = f"{len(arch['depths'])} depths for {len(arch['channels'])} channels; a stage has one of each"
        raise ConfigError(Problem(message, "arch"))
    return arch["depths"], arch["channels"]
