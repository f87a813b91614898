"""Published position embeddings and relative position biases, interpolated to the size of this model.

These are for loading weights, and `interpolate_positions` for the forward pass as well; most models use
`segkernel.nn.resize_pos_embed` there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.nn import is_tracing, nchw_to_nlc, nlc_to_nchw, resize, resize_pos_embed


def interpolate_pos_embed(
    pos_embed: Tensor, grid: tuple[int, int], mode: str = "bicubic", extra_tokens: int = 1
) -> Tensor | None:
    """Interpolate position embeddings (1, extra + n * n, C) to (1, extra + h * w, C); None if their grid is not square.

    Args:
        pos_embed: Position embeddings, those of the extra tokens first.
        grid: Patches (h, w) of the model they are loaded into.
        mode: Interpolation, as in `segkernel.nn.resize`.
        extra_tokens: Tokens before the patches, such as a class token, whose embeddings are kept.
    """
    side = math.isqrt(max(pos_embed.shape[1] - extra_tokens, 0))
    if pos_embed.ndim != 3 or side * side + extra_tokens != pos_embed.shape[1]:
        return None
    return resize_pos_embed(pos_embed, (side, side), grid, mode, extra_tokens)


def interpolate_positions(
    pos_embed: Tensor, grid: tuple[int, int], size: tuple[int, int], antialias: bool = False, offset: float = 0.0
) -> Tensor:
    """Interpolate position embeddings (1, 1 + h * w, C) of a ``grid`` (h, w) to (1, 1 + H * W, C), as DINOv2 does.

    Args:
        pos_embed: Position embeddings, that of the class token first.
        grid: Number of patches (h, w) that they are for.
        size: Number of patches (H, W) of this image; may be symbols while the model is compiled or exported.
        antialias: Use the kernel of Pillow's bicubic resizing.
        offset: Resize by (H + offset) / h instead of H / h, without antialiasing; the embedding of row y is taken at
            (y + 0.5) h / (H + offset) - 0.5.
    """
    if not is_tracing() and tuple(grid) == tuple(size):
        return pos_embed
    table = nlc_to_nchw(pos_embed[:, 1:], grid).float()
    if offset:
        resized = _sample(table, size, offset)
    else:
        resized = F.interpolate(table, size, mode="bicubic", antialias=antialias)
    return torch.cat([pos_embed[:, :1], nchw_to_nlc(resized).to(pos_embed.dtype)], 1)


def _sample(table: Tensor, size: tuple[int, int], offset: float) -> Tensor:
    """Return ``F.interpolate`` of ``table`` by the factor (H + offset) / h, for sizes that may be symbols."""
    y, x = ((torch.arange(side, device=table.device) + 0.5) * (2 / (side + offset)) - 1 for side in size)
    points = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).to(table.dtype)
    return F.grid_sample(table, points.unsqueeze(0), mode="bicubic", padding_mode="border", align_corners=False)


def interpolate_relative_position_bias(table: Tensor, window: tuple[int, int], extra_rows: int = 0) -> Tensor | None:
    """Interpolate a table of relative position biases to another window; None if its own window is not square.

    Args:
        table: ((2 n - 1)^2 + extra, heads), one row for each offset between two tokens of an n x n window.
        window: Tokens (h, w) of the window of the model it is loaded into.
        extra_rows: Rows at the end, for a class token, that are kept.

    Returns:
        ((2 h - 1) (2 w - 1) + extra, heads).
    """
    side = math.isqrt(max(len(table) - extra_rows, 0))
    if side * side + extra_rows != len(table):
        return None
    offsets, extra = table[: side * side], table[side * side :]
    size = (2 * window[0] - 1, 2 * window[1] - 1)
    # Bicubic on the regular grid of offsets, as Swin's authors do; BEiT's space the offsets geometrically first.
    resized = resize(offsets.T.reshape(1, -1, side, side), size, mode="bicubic")
    return torch.cat([resized.flatten(2).squeeze(0).T, extra])
