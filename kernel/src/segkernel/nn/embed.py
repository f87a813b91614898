"""Feature maps (N, C, H, W) to tokens (N, H * W, C) and back, and the position embeddings of tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

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
    """Interpolate position embeddings (1, extra + h * w, C) of a ``grid`` (h, w) to (1, extra + H * W, C).

    Args:
        pos_embed: Position embeddings.
        grid: Number of patches (h, w) that they are for.
        size: Number of patches (H, W) of this image; may be symbols while the model is compiled or exported.
        mode: Interpolation, as in `resize`.
        extra_tokens: Tokens before the patches, such as a class token, whose embeddings are kept.
    """
    if not is_tracing() and tuple(grid) == tuple(size):
        return pos_embed
    extra, patches = pos_embed[:, :extra_tokens], pos_embed[:, extra_tokens:]
    return torch.cat([extra, nchw_to_nlc(resize(nlc_to_nchw(patches, grid), size, mode=mode))], 1)


class PatchEmbed(nn.Module):
    """Embed patches of an image, overlapping if ``stride`` < ``kernel_size``: (N, C, H, W) -> (N, h * w, D), (h, w).

    Args:
        in_channels: C.
        embed_dims: D.
        conv_type: Type of the convolution.
        kernel_size: Side of a patch in pixels.
        stride: Step between patches in pixels; ``kernel_size`` for None.
        padding: In pixels on each side, or the mode of `AdaptivePadding`.
        dilation: Distance between kernel points in pixels.
        bias: Whether the convolution has a bias.
        norm_cfg: Norm of the tokens; None is no norm.
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
            {"type": conv_type},
            in_channels,
            embed_dims,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=bias,
        )
        self.norm = None if norm_cfg is None else build_norm(norm_cfg, embed_dims)[1]

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (N, h * w, D) and the number of patches (h, w)."""
        if self.adap_padding is not None:
            x = self.adap_padding(x)
        x = self.projection(x)
        size = (x.shape[2], x.shape[3])
        tokens = nchw_to_nlc(x)
        return tokens if self.norm is None else self.norm(tokens), size
