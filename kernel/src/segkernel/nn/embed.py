"""Images to tokens and back: (N, C, H, W) and (N, H * W, C)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.nn.layers import LayerConfig, build_conv, build_norm
from segkernel.nn.padding import AdaptivePadding
from segkernel.nn.pool import is_tracing
from segkernel.nn.resize import resize


def nchw_to_nlc(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def nlc_to_nchw(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H * W, C) -> (N, C, H, W); ``size`` is (H, W)."""
    return x.transpose(1, 2).unflatten(2, size)


def resize_pos_embed(
    pos_embed: Tensor, grid: tuple[int, int], size: tuple[int, int], mode: str = "bilinear", extra_tokens: int = 1
) -> Tensor:
    """Resample position embeddings (1, extra + h * w, C) of a ``grid`` (h, w) to (1, extra + H * W, C).

    Args:
        size: (H, W); they may be symbols when the model is compiled or exported.
        mode: As in `resize`.
        extra_tokens: Tokens before the grid, of a class say, that are kept as they are.
    """
    if not is_tracing() and tuple(grid) == tuple(size):
        return pos_embed
    extra, patches = pos_embed[:, :extra_tokens], pos_embed[:, extra_tokens:]
    return torch.cat([extra, nchw_to_nlc(resize(nlc_to_nchw(patches, grid), size, mode=mode))], 1)


def fit_pos_embed(
    pos_embed: Tensor, grid: tuple[int, int], mode: str = "bicubic", extra_tokens: int = 1
) -> Tensor | None:
    """Resample published position embeddings (1, extra + n * n, C) to ``grid`` (h, w); None if it is no square."""
    side = math.isqrt(max(pos_embed.shape[1] - extra_tokens, 0))
    if pos_embed.ndim != 3 or side * side + extra_tokens != pos_embed.shape[1]:
        return None
    return resize_pos_embed(pos_embed, (side, side), grid, mode, extra_tokens)


def fit_position_table(table: Tensor, window: tuple[int, int], extra_rows: int = 0) -> Tensor | None:
    """Resample a published table of relative positions ((2 n - 1)^2 + extra, heads) to a ``window`` (h, w).

    Returns:
        ((2 h - 1) (2 w - 1) + extra, heads), or None when the table is not of a square window.
    """
    side = math.isqrt(max(len(table) - extra_rows, 0))
    if side * side + extra_rows != len(table):
        return None
    ways, extra = table[: side * side], table[side * side :]
    size = (2 * window[0] - 1, 2 * window[1] - 1)
    resized = resize(ways.T.reshape(1, -1, side, side), size, mode="bicubic")
    return torch.cat([resized.flatten(2).squeeze(0).T, extra])


class PatchEmbed(nn.Module):
    """Cut an image into patches, overlapping for a small ``stride``: (N, C, H, W) -> (N, h * w, D), (h, w).

    Args:
        in_channels: C.
        embed_dims: D.
        conv_type: Kind of convolution.
        kernel_size: Side of a patch in pixels.
        stride: Distance of patches, their side for None.
        padding: Pixels, or as `AdaptivePadding` has it.
        norm_cfg: Normalises the tokens; none for None.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 768,
        conv_type: str = "Conv2d",
        kernel_size: int = 16,
        stride: int | None = None,
        padding: int | Literal["same", "corner"] = "corner",
        dilation: int = 1,
        bias: bool = True,
        norm_cfg: LayerConfig | None = None,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        self.embed_dims = embed_dims
        self.adap_padding = None
        if isinstance(padding, str):
            self.adap_padding = AdaptivePadding(kernel_size, stride, dilation, padding)
            padding = 0
        self.projection = build_conv(
            {"type": conv_type}, in_channels, embed_dims, kernel_size, stride, padding, dilation, bias=bias
        )
        self.norm = None if norm_cfg is None else build_norm(norm_cfg, embed_dims)[1]

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.projection(x if self.adap_padding is None else self.adap_padding(x))
        size = (x.shape[2], x.shape[3])
        tokens = nchw_to_nlc(x)
        return tokens if self.norm is None else self.norm(tokens), size


class PatchMerging(nn.Module):
    """Join neighbouring tokens into one: (N, h * w, C), (h, w) -> (N, h' * w', D), (h', w').

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: Side of the square of tokens that is joined.
        stride: Distance of the squares, their side for None.
        padding: Tokens of zeros, or as `AdaptivePadding` has it.
        norm_cfg: Normalises the joined tokens before they are projected; none for None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 2,
        stride: int | None = None,
        padding: int | Literal["same", "corner"] = "corner",
        dilation: int = 1,
        bias: bool = False,
        norm_cfg: LayerConfig | None = {"type": "LN"},  # noqa: B006  never changed
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        self.adap_padding = None
        if isinstance(padding, str):
            self.adap_padding = AdaptivePadding(kernel_size, stride, dilation, padding)
            padding = 0
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        joined = kernel_size**2 * in_channels
        self.norm = None if norm_cfg is None else build_norm(norm_cfg, joined)[1]
        self.reduction = nn.Linear(joined, out_channels, bias=bias)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        grid = nlc_to_nchw(x, size)
        grid = grid if self.adap_padding is None else self.adap_padding(grid)
        height, width = (self._steps(length) for length in grid.shape[2:])
        if self.kernel_size == self.stride and self.dilation == 1 and self.padding == 0:  # exporters prefer it
            whole = grid[:, :, : height * self.stride, : width * self.stride]
            joined = nchw_to_nlc(F.pixel_unshuffle(whole, self.stride))
        else:
            joined = F.unfold(grid, self.kernel_size, self.dilation, self.padding, self.stride).transpose(1, 2)
        return self.reduction(joined if self.norm is None else self.norm(joined)), (height, width)

    def _steps(self, length: int) -> int:
        return (length + 2 * self.padding - self.dilation * (self.kernel_size - 1) - 1) // self.stride + 1
