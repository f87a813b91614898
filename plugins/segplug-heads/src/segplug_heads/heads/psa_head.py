"""PSANet: point-wise spatial attention, in which each pixel predicts how it weights every other one, and the reverse.

PSANet: Point-wise Spatial Attention Network for Scene Parsing, Zhao et al., 2018.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import Positive, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, resize

PSAType = Literal["collect", "distribute", "bi-direction"]
Direction = Literal["collect", "distribute"]


class PSAMask(nn.Module):
    """Attention maps relative to each pixel, made absolute: (N, mask height * mask width, h, w) -> (N, h * w, h * w).

    ``collect``: entry (j, i) is the weight of pixel j for pixel i, as i predicts it. ``distribute``: entry (i, j) is
    the weight of pixel i for pixel j, as i predicts it. Weights outside the mask are 0.

    Args:
        psa_type: ``collect`` or ``distribute``.
        mask_size: (height, width) of the mask around a pixel.
    """

    def __init__(self, psa_type: Direction, mask_size: tuple[int, int]) -> None:
        super().__init__()
        self.psa_type: Direction = psa_type
        self.mask_size = tuple(mask_size)

    def forward(self, masks: Tensor) -> Tensor:
        attention = masks.unflatten(1, self.mask_size)
        for axis in (1, 2):
            attention = _relative_to_absolute(attention, axis)
        attention = attention.flatten(3, 4).flatten(1, 2)
        return attention if self.psa_type == "collect" else attention.mT


class PSAHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    As in the reference implementation, maps are shrunk with ``align_corners`` when neither side is a multiple of
    ``shrink_factor``, and without it otherwise; an exported model keeps to the way of its example.

    Args:
        mask_size: (height, width) of the attention mask around a pixel, in pixels of the shrunk map.
        psa_type: Pixels ``collect`` from others, ``distribute`` to others, or both (``bi-direction``).
        compact: The mask is the whole shrunk map, not centred on the pixel; ``mask_size`` must be the map's size.
        shrink_factor: The map is shrunk by it before the attention.
        normalization_factor: The context is divided by it; None is the number of pixels of the mask.
        psa_softmax: Normalise the weights of a pixel with a softmax.

    Raises:
        ConfigError: ``psa_type`` is unknown.
    """

    conformance: ClassVar = {"in_channels": 16, "channels": 8, "mask_size": [3, 4], "num_classes": 4}

    def __init__(
        self,
        mask_size: tuple[PositiveInt, PositiveInt],
        psa_type: PSAType = "bi-direction",
        compact: bool = False,
        shrink_factor: PositiveInt = 2,
        normalization_factor: Positive | None = 1.0,
        psa_softmax: bool = True,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        if psa_type not in get_args(PSAType):
            raise ConfigError(Problem(f"{psa_type!r} is not one of {', '.join(get_args(PSAType))}", "psa_type"))
        self.psa_type, self.compact = psa_type, compact
        self.shrink_factor, self.psa_softmax = shrink_factor, psa_softmax
        mask_pixels = mask_size[0] * mask_size[1]
        self.normalization_factor = float(mask_pixels if normalization_factor is None else normalization_factor)
        self.reduce, self.attention = self._branch(mask_pixels)
        directions = 1
        if psa_type == "bi-direction":
            directions = 2
            self.reduce_p, self.attention_p = self._branch(mask_pixels)
            self.psamask_collect = PSAMask("collect", mask_size)
            self.psamask_distribute = PSAMask("distribute", mask_size)
        else:
            self.psamask = PSAMask(psa_type, mask_size)
        # The padding of a 1x1 convolution adds a border without context; published weights were trained with it.
        self.proj = ConvModule(directions * self.channels, self.in_channels, 1, padding=1, **self.layer_cfgs)
        self.bottleneck = ConvModule(2 * self.in_channels, self.channels, 3, padding=1, **self.layer_cfgs)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        if self.psa_type == "bi-direction":
            collected = self._context(x, self.reduce, self.attention, self.psamask_collect)
            distributed = self._context(x, self.reduce_p, self.attention_p, self.psamask_distribute)
            context = torch.cat([collected, distributed], 1)
        else:
            context = self._context(x, self.reduce, self.attention, self.psamask)
        _, align_corners = self._shrunk_size(x)
        context = resize(self.proj(context), x.shape[2:], align_corners=align_corners)
        return self.bottleneck(torch.cat([x, context], 1))

    def _context(self, x: Tensor, reduce: nn.Module, attention: nn.Module, mask: PSAMask) -> Tensor:
        """Return the context (N, channels, h', w') of the shrunk map in one direction."""
        x, (size, align_corners) = reduce(x), self._shrunk_size(x)
        if self.shrink_factor != 1:
            x = resize(x, size, align_corners=align_corners)
        weights = attention(x)
        weights = self._compact_attention(weights, mask.psa_type) if self.compact else mask(weights)
        if self.psa_softmax:
            weights = weights.softmax(1)
        return (x.flatten(2) @ weights).view_as(x) / self.normalization_factor

    def _compact_attention(self, masks: Tensor, direction: Direction) -> Tensor:
        """Return compact masks as (N, h * w, h * w), with the axis that the softmax normalises first."""
        # As the reference implementation: with both directions ``distribute`` is transposed, alone ``collect`` is.
        transposed = "distribute" if self.psa_type == "bi-direction" else "collect"
        masks = masks.flatten(2)
        return masks.mT if direction == transposed else masks

    def _shrunk_size(self, x: Tensor) -> tuple[tuple[int, int], bool]:
        """Return the size of the shrunk map, and ``align_corners`` for resizing to it and back."""
        factor, (height, width) = self.shrink_factor, x.shape[2:]
        if factor == 1:
            return (height, width), self.align_corners
        if height % factor and width % factor:
            return ((height - 1) // factor + 1, (width - 1) // factor + 1), True
        return (height // factor, width // factor), False

    def _branch(self, mask_pixels: int) -> tuple[nn.Module, nn.Module]:
        """Return the reduction of the channels, and the prediction of a mask for each pixel."""
        predict = nn.Conv2d(self.channels, mask_pixels, 1, bias=False)
        attention = nn.Sequential(ConvModule(self.channels, self.channels, 1, **self.layer_cfgs), predict)
        return ConvModule(self.in_channels, self.channels, 1, **self.layer_cfgs), attention


def _relative_to_absolute(masks: Tensor, axis: int) -> Tensor:
    """Change one axis of masks (N, mh, mw, h, w) from positions relative to the pixel to positions in the map.

    For a pixel at i, entry j along ``axis`` is the mask's entry j - i + half, and 0 outside the mask.
    """
    length, span = masks.shape[axis + 2], masks.shape[axis]
    position = torch.arange(length, device=masks.device)
    entry = position[:, None] - position + (span - 1) // 2
    shape = [1] * 5
    shape[axis] = shape[axis + 2] = length
    entry = entry.view(shape)
    size = [*masks.shape]
    size[axis] = length
    absolute = masks.gather(axis, entry.clamp(0, span - 1).expand(size))
    return absolute.masked_fill_((entry < 0) | (entry >= span), 0)
