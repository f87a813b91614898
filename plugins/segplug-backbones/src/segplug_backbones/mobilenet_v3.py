"""MobileNetV3 for segmentation: dilated instead of strided from stride 8 on.

    features = MobileNetV3("large", out_indices=(1, 3, 16))(torch.rand(2, 3, 512, 512))  # strides 2, 4, 8

Searching for MobileNetV3, Howard et al., 2019 (https://arxiv.org/abs/1905.02244).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem, suggest
from segkernel.nn import ConvModule, FreezableBackbone, check_frozen_stages, check_out_indices, checkpoint_block
from segplug_backbones.inverted_residual import InvertedResidualV3
from segplug_backbones.pretrained import Pretrained


class Row(NamedTuple):
    """One block.

    Args:
        kernel: Side of the depthwise convolution in pixels.
        mid_channels: Hidden channels, the paper's "exp size".
        channels: Output channels.
        with_se: Add squeeze-and-excitation.
        activation: ``ReLU`` or ``HSwish``.
        stride: Stride of the depthwise convolution.
    """

    kernel: int
    mid_channels: int
    channels: int
    with_se: bool
    activation: str
    stride: int


SAME_PADDING = {"type": "Conv2dAdaptivePadding"}


class Arch(NamedTuple):
    """Blocks, channels of the last convolution, and the blocks (from 1) whose stride becomes a dilation of 2 and 4."""

    blocks: tuple[Row, ...]
    last: int
    dilated: tuple[int, int]


ARCHS = {
    "small": Arch(
        (
            Row(3, 16, 16, True, "ReLU", 2),
            Row(3, 72, 24, False, "ReLU", 2),
            Row(3, 88, 24, False, "ReLU", 1),
            Row(5, 96, 40, True, "HSwish", 2),
            Row(5, 240, 40, True, "HSwish", 1),
            Row(5, 240, 40, True, "HSwish", 1),
            Row(5, 120, 48, True, "HSwish", 1),
            Row(5, 144, 48, True, "HSwish", 1),
            Row(5, 288, 96, True, "HSwish", 2),
            Row(5, 576, 96, True, "HSwish", 1),
            Row(5, 576, 96, True, "HSwish", 1),
        ),
        last=576,
        dilated=(4, 9),
    ),
    "large": Arch(
        (
            Row(3, 16, 16, False, "ReLU", 1),
            Row(3, 64, 24, False, "ReLU", 2),
            Row(3, 72, 24, False, "ReLU", 1),
            Row(5, 72, 40, True, "ReLU", 2),
            Row(5, 120, 40, True, "ReLU", 1),
            Row(5, 120, 40, True, "ReLU", 1),
            Row(3, 240, 80, False, "HSwish", 2),
            Row(3, 200, 80, False, "HSwish", 1),
            Row(3, 184, 80, False, "HSwish", 1),
            Row(3, 184, 80, False, "HSwish", 1),
            Row(3, 480, 112, True, "HSwish", 1),
            Row(3, 672, 112, True, "HSwish", 1),
            Row(5, 672, 160, True, "HSwish", 2),
            Row(5, 960, 160, True, "HSwish", 1),
            Row(5, 960, 160, True, "HSwish", 1),
        ),
        last=960,
        dilated=(7, 13),
    ),
}
"""Tables 1 (large) and 2 (small) of the paper."""


class MobileNetV3(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    Args:
        arch: ``small`` or ``large``.
        conv_cfg: Type of the convolutions; None is ``Conv2d``. In blocks with a stride of 2 they have TensorFlow's
            ``SAME`` padding in any case.
        norm_cfg: Type of the norms and its arguments.
        out_indices: The layers to return: 0 the stem, 1 to 11 (``small``) or 15 (``large``) the blocks, then the last
            convolution.
        frozen_stages: -1 freezes nothing, n the layers 0 to n.
        reduction_factor: Divides the channels of the last blocks, those with a dilation of 4; 2 is the paper's RF2 for
            segmentation.
        norm_eval: Keep batch norm in evaluation mode while training.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        in_channels: Channels of the image.

    Raises:
        ConfigError: When an argument is out of range.
    """

    conformance: ClassVar = ({"out_indices": (0, 1, 12)}, {"arch": "large", "out_indices": (1, 3, 16)})

    def __init__(
        self,
        arch: Literal["small", "large"] = "small",
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        out_indices: Sequence[int] = (0, 1, 12),
        frozen_stages: int = -1,
        reduction_factor: PositiveInt = 1,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
        in_channels: PositiveInt = 3,
    ) -> None:
        super().__init__()
        if arch not in ARCHS:
            raise ConfigError(Problem(f"no MobileNetV3 is called {arch!r}", "arch", hint=suggest(arch, ARCHS)))
        if reduction_factor < 1:
            raise ConfigError(Problem(f"{reduction_factor} is not 1 or more", "reduction_factor"))
        blocks, last, dilated = ARCHS[arch]
        self.out_indices = check_out_indices(out_indices, len(blocks) + 2)
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, len(blocks) + 1)
        self.norm_eval, self.with_cp, self.pretrained = norm_eval, with_cp, pretrained
        hard: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": {"type": "HSwish"}}
        self.layer0 = ConvModule(in_channels, 16, 3, stride=2, padding=1, conv_cfg=SAME_PADDING, **hard)
        channels, strides = [16], [2]
        for i, row in enumerate(blocks, start=1):
            dilation = 1 if i < dilated[0] else 2 if i < dilated[1] else 4
            factor = reduction_factor if dilation == 4 else 1
            stride = 1 if i in dilated else row.stride
            block = InvertedResidualV3(
                channels[-1],
                row.channels // factor,
                mid_channels=row.mid_channels // factor,
                kernel_size=row.kernel,
                stride=stride,
                dilation=dilation,
                se_cfg={"channels": row.mid_channels // factor, "ratio": 4} if row.with_se else None,
                # Also in the blocks whose stride became a dilation, as in the reference.
                conv_cfg=SAME_PADDING if row.stride == 2 else conv_cfg,
                norm_cfg=norm_cfg,
                act_cfg={"type": row.activation},
            )
            self.add_module(f"layer{i}", block)
            channels.append(row.channels // factor)
            strides.append(strides[-1] * stride)
        self.num_layers = len(blocks) + 2
        self.add_module(f"layer{len(blocks) + 1}", ConvModule(channels[-1], last, 1, conv_cfg=conv_cfg, **hard))
        self.channels = tuple([*channels, last][i] for i in self.out_indices)
        self.strides = tuple([*strides, strides[-1]][i] for i in self.out_indices)
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, outputs = images, []
        for layer in self._layers():
            x = checkpoint_block(layer, x, enabled=self.with_cp and isinstance(layer, InvertedResidualV3))
            outputs.append(x)
        return tuple(outputs[i] for i in self.out_indices)

    def _layers(self) -> list[nn.Module]:
        return [getattr(self, f"layer{i}") for i in range(self.num_layers)]

    def frozen_modules(self) -> list[nn.Module]:
        return self._layers()[: self.frozen_stages + 1]
