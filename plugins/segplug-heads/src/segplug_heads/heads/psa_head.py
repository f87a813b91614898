"""PSANet: each pixel says how much every other one matters to it, and how much it matters to every other one.

Zhao et al., PSANet: Point-wise Spatial Attention Network for Scene Parsing, 2018.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, resize

PSAType = Literal["collect", "distribute", "bi-direction"]


class PSAMask(nn.Module):
    """Windows around each pixel, laid out over the map: (N, mask height * mask width, h, w) -> (N, h * w, h * w).

    ``collect``: entry (j, i) is what the window of pixel i says of pixel j, 0 outside it. ``distribute``: entry (i, j).

    Args:
        psa_type: ``collect`` or ``distribute``.
        mask_size: (height, width) of the windows.
    """

    def __init__(self, psa_type: Literal["collect", "distribute"], mask_size: tuple[int, int]) -> None:
        super().__init__()
        self.psa_type, self.mask_size = psa_type, tuple(mask_size)

    def forward(self, windows: Tensor) -> Tensor:
        laid_out = windows.unflatten(1, self.mask_size)
        for axis in (1, 2):
            laid_out = _lay_out(laid_out, axis)
        laid_out = laid_out.flatten(3, 4).flatten(1, 2)
        return laid_out if self.psa_type == "collect" else laid_out.mT


class PSAHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Maps are shrunk in one way when both sides are no multiple of ``shrink_factor``, and in another way otherwise; an
    exported model keeps to the way of its example.

    Args:
        mask_size: (height, width) of the window in which a pixel says what matters, in shrunken pixels.
        psa_type: What others say of a pixel is collected, what it says itself is distributed, or both.
        compact: The window is the whole shrunken map and is not centred on the pixel; its size must be ``mask_size``.
        shrink_factor: The attention works on a map so many times smaller.
        normalization_factor: Divides the context; the size of the window for None.
        psa_softmax: Weights of a pixel sum to 1.

    Raises:
        ConfigError: The type is unknown.
    """

    conformance: ClassVar = {"in_channels": 16, "channels": 8, "mask_size": [3, 4], "num_classes": 4}

    def __init__(
        self,
        mask_size: tuple[int, int],
        psa_type: PSAType = "bi-direction",
        compact: bool = False,
        shrink_factor: int = 2,
        normalization_factor: float | None = 1.0,
        psa_softmax: bool = True,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        if psa_type not in get_args(PSAType):
            raise ConfigError(Problem(f"{psa_type!r} is not one of {', '.join(get_args(PSAType))}", "psa_type"))
        self.psa_type, self.compact, self.shrink_factor, self.psa_softmax = (
            psa_type,
            compact,
            shrink_factor,
            psa_softmax,
        )
        window = mask_size[0] * mask_size[1]
        self.normalization_factor = float(window if normalization_factor is None else normalization_factor)
        self._layers = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.reduce, self.attention = self._branch(window)
        if psa_type == "bi-direction":
            self.reduce_p, self.attention_p = self._branch(window)
            self.psamask_collect, self.psamask_distribute = (
                PSAMask("collect", mask_size),
                PSAMask("distribute", mask_size),
            )
        else:
            self.psamask = PSAMask(psa_type, mask_size)
        found = self.channels * (2 if psa_type == "bi-direction" else 1)
        # The padding of a 1x1 convolution adds a border that holds no context; models were trained with it.
        self.proj = ConvModule(found, self.in_channels, 1, padding=1, **self._layers)
        self.bottleneck = ConvModule(2 * self.in_channels, self.channels, 3, padding=1, **self._layers)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        if self.psa_type == "bi-direction":
            collected = self._context(x, self.reduce, self.attention, self.psamask_collect)
            distributed = self._context(x, self.reduce_p, self.attention_p, self.psamask_distribute)
            found = torch.cat([collected, distributed], 1)
        else:
            found = self._context(x, self.reduce, self.attention, self.psamask)
        _, align_corners = self._shrunken(x)
        found = resize(self.proj(found), x.shape[2:], align_corners=align_corners)
        return self.bottleneck(torch.cat([x, found], 1))

    def _context(self, x: Tensor, reduce: nn.Module, attention: nn.Module, mask: PSAMask) -> Tensor:
        """Return (N, channels, h', w') of the shrunken map."""
        x, (size, align_corners) = reduce(x), self._shrunken(x)
        if self.shrink_factor != 1:
            x = resize(x, size, align_corners=align_corners)
        weights = attention(x)
        weights = self._whole(weights, mask.psa_type) if self.compact else mask(weights)
        if self.psa_softmax:
            weights = weights.softmax(1)
        return (x.flatten(2) @ weights).view_as(x) / self.normalization_factor

    def _whole(self, weights: Tensor, psa_type: str) -> Tensor:
        """Return compact windows as (N, h * w, h * w), the axis that sums to 1 first."""
        # As trained: both directions at once transpose what is distributed, one alone what is collected.
        transposed = "distribute" if self.psa_type == "bi-direction" else "collect"
        weights = weights.flatten(2)
        return weights.mT if psa_type == transposed else weights

    def _shrunken(self, x: Tensor) -> tuple[tuple[int, int], bool]:
        """Return the size of the map that the attention works on, and how to resize to it and back."""
        factor, (height, width) = self.shrink_factor, x.shape[2:]
        if factor == 1:
            return (height, width), self.align_corners
        if height % factor and width % factor:
            return ((height - 1) // factor + 1, (width - 1) // factor + 1), True
        return (height // factor, width // factor), False

    def _branch(self, window: int) -> tuple[nn.Module, nn.Module]:
        """Return what reduces the channels, and what says a window for each pixel."""
        last = nn.Conv2d(self.channels, window, 1, bias=False)
        attention = nn.Sequential(ConvModule(self.channels, self.channels, 1, **self._layers), last)
        return ConvModule(self.in_channels, self.channels, 1, **self._layers), attention


def _lay_out(windows: Tensor, axis: int) -> Tensor:
    """Move a window's axis (N, mh, mw, h, w) from places relative to its pixel to places in the map.

    Entry j along ``axis`` is the window's entry j - i + half for a pixel at i, and 0 outside the window.
    """
    length, span = windows.shape[axis + 2], windows.shape[axis]
    place = torch.arange(length, device=windows.device)
    entry = place[:, None] - place + (span - 1) // 2
    shape = [1] * 5
    shape[axis] = shape[axis + 2] = length
    entry = entry.view(shape)
    size = [*windows.shape]
    size[axis] = length
    taken = windows.gather(axis, entry.clamp(0, span - 1).expand(size))
    return taken.masked_fill_((entry < 0) | (entry >= span), 0)
