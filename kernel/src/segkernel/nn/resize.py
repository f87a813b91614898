"""Resizing of feature maps and scores, with the numbers of torch and sizes that stay dynamic in an exported model."""

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
    """Return ``x`` (N, C, h, w) at ``size``, in pixels (height, width), or scaled by ``scale_factor``.

    ``align_corners`` maps corner pixels onto corner pixels; only interpolating modes know it.
    """
    corners = bool(align_corners) if mode in ("linear", "bilinear", "bicubic", "trilinear") else None
    return F.interpolate(x, None if size is None else tuple(size), scale_factor, mode, corners)
