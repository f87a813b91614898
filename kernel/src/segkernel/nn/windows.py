"""Windows of sliding-window inference: where they are, and the weights of their pixels where they overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from segkernel.geometry import Size


class SlidingWindows:
    """Windows that cover images of one size; the last of a row or column is moved inside.

    Args:
        size: Height and width of the images.
        crop_size: Size of a window; smaller where the images are.
        stride: Distance of two windows.
        blend: Weights of a window's pixels in the average: ``uniform``, or ``gaussian``, which falls off from the
            centre with a standard deviation of an eighth of each side, as in nnU-Net (Isensee et al., 2021).
        batch_size: Windows of an image that are computed at once.
    """

    def __init__(
        self,
        size: Size,
        crop_size: Size,
        stride: Size,
        blend: Literal["uniform", "gaussian"] = "uniform",
        batch_size: int = 1,
    ) -> None:
        self.size, self.batch_size = size, batch_size
        self.window = high, wide = min(size[0], crop_size[0]), min(size[1], crop_size[1])
        rows, columns = (_starts(*each) for each in zip(size, crop_size, stride))
        self.corners = [(top, left) for top in rows for left in columns]
        self.weights = _gaussian(self.window) if blend == "gaussian" else None
        self.total = torch.zeros((1, 1, *size))
        """Sum of the weights over each pixel, (1, 1, H, W)."""
        for top, left in self.corners:
            self.total[..., top : top + high, left : left + wide] += 1 if self.weights is None else self.weights

    def batches(self, images: Tensor) -> Iterator[tuple[Tensor, Sequence[tuple[int, int]]]]:
        """Yield the content of ``batch_size`` windows, (windows x N, C, h, w), and their (top, left)."""
        (high, wide), step = self.window, self.batch_size
        for start in range(0, len(self.corners), step):
            corners = self.corners[start : start + step]
            yield torch.cat([images[..., y : y + high, x : x + wide] for y, x in corners]), corners

    def weigh(self, values: Any) -> Any:
        """Return raw values of windows, times the weights if they are a map (N, K, h, w)."""
        return values if self.weights is None or not isinstance(values, Tensor) else values * self.weights.to(values)


def _starts(length: int, side: int, step: int) -> list[int]:
    return [*range(0, length - side, step), max(length - side, 0)]


def _gaussian(size: Size) -> Tensor:
    """Return weights (height, width): a window says little about its border, where it sees no surroundings."""
    rows, columns = (torch.linspace(-4, 4, side + 2)[1:-1].square().div(-2).exp() for side in size)
    return rows[:, None] * columns
