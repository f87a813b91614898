"""Layers that configs name by ``conv_cfg``, ``act_cfg`` and ``upsample_cfg``, under MMSegmentation's names."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.nn.padding import pad_both_sides, same_padding


class AdaptivePaddingConv2d(nn.Conv2d):
    """``Conv2dAdaptivePadding``: (N, C, H, W) -> (N, D, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels D of the result.
        kernel_size: Height and width of the kernel, or both.
        stride: Pixels of the input per pixel of the result.
        padding: Has no effect.
        dilation: Pixels between neighbouring taps of the kernel.
        groups: Groups of channels that are convolved separately.
        bias: Whether the result gets a bias.
        padding_mode: Zeros are added.
    """

    conformance: ClassVar = {"in_channels": 8, "out_channels": 4, "kernel_size": 3}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros"] = "zeros",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias, padding_mode)
        self.input_size: int | None = None
        """Side of the maps whose padding is used for all; a model may set it after construction."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:] if self.input_size is None else (self.input_size, self.input_size)
        sides = zip(size, self.kernel_size, self.stride, self.dilation, strict=True)
        return super().forward(pad_both_sides(x, *(same_padding(*side) for side in sides)))


class HSigmoid(nn.Module):
    """Hard sigmoid, ``clamp((x + bias) / divisor, min_value, max_value)`` (Howard et al., MobileNetV3, 2019).

    Args:
        bias: Added to the input.
        divisor: Divides the sum.
        min_value: Smallest result.
        max_value: Largest result.
    """

    def __init__(self, bias: float = 3.0, divisor: float = 6.0, min_value: float = 0.0, max_value: float = 1.0) -> None:
        super().__init__()
        self.bias, self.divisor, self.min_value, self.max_value = bias, divisor, min_value, max_value

    def forward(self, x: Tensor) -> Tensor:
        return ((x + self.bias) / self.divisor).clamp(self.min_value, self.max_value)


class PixelShufflePack(nn.Module):
    """``pixel_shuffle``: sub-pixel convolution (Shi et al., 2016), a convolution followed by a pixel shuffle.

    (N, in_channels, H, W) -> (N, out_channels, H * scale_factor, W * scale_factor).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result.
        scale_factor: Height and width of the result, divided by those of the input.
        upsample_kernel: Size of the convolution's kernel.
    """

    conformance: ClassVar = {"in_channels": 8, "out_channels": 4, "scale_factor": 2, "upsample_kernel": 3}

    def __init__(self, in_channels: int, out_channels: int, scale_factor: int, upsample_kernel: int) -> None:
        super().__init__()
        padding = (upsample_kernel - 1) // 2
        self.upsample_conv = nn.Conv2d(in_channels, out_channels * scale_factor**2, upsample_kernel, padding=padding)
        nn.init.xavier_uniform_(self.upsample_conv.weight)
        nn.init.zeros_(self.upsample_conv.bias)  # type: ignore[arg-type]
        self.scale_factor = scale_factor

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.upsample_conv(x), self.scale_factor)
