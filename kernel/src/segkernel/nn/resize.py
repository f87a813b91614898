"""Resizing of feature maps and logits, with sizes that stay dynamic in an exported model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def resize(
    x: Tensor,
    size: Sequence[int] | None = None,
    scale_factor: float | None = None,
    mode: str = "bilinear",
    align_corners: bool | None = False,
) -> Tensor:
    """Return ``x`` (N, C, h, w) resized to ``size``, or by ``scale_factor``.

    Args:
        x: Feature maps or logits.
        size: (height, width) in pixels.
        scale_factor: Factor of height and width; in place of ``size``.
        mode: As in ``F.interpolate``.
        align_corners: As in ``F.interpolate``; without effect on ``nearest`` and ``area``.
    """
    corners = bool(align_corners) if mode in ("linear", "bilinear", "bicubic", "trilinear") else None
    return F.interpolate(x, None if size is None else tuple(size), scale_factor, mode, corners)


def upsample_logits(logits: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Return logits (N, K, h, w) at the ``size`` (H, W) of their labels.

    Others, of points (N, K, P) or of whole images (N, K), have no stride and are returned unchanged.
    """
    if logits.ndim != 4 or tuple(logits.shape[2:]) == tuple(size):
        return logits
    return resize(logits, size, align_corners=align_corners)
