"""Windows of sliding-window inference: where they are, and the average of their predictions where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from segkernel.geometry import Size

_ROWS = 64  # averaged at once


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
        self.window = min(size[0], crop_size[0]), min(size[1], crop_size[1])
        rows, columns = (_starts(*each) for each in zip(size, crop_size, stride))
        self.corners = [(top, left) for top in rows for left in columns]
        self.weights = _gaussian(self.window) if blend == "gaussian" else None

    def batches(self, images: Tensor) -> Iterator[tuple[Tensor, Sequence[tuple[int, int]]]]:
        """Yield the content of ``batch_size`` windows, (windows x N, C, h, w), and their (top, left)."""
        (high, wide), step = self.window, self.batch_size
        for start in range(0, len(self.corners), step):
            corners = self.corners[start : start + step]
            yield torch.cat([images[..., y : y + high, x : x + wide] for y, x in corners]), corners

    def average(self, predict: Callable[[Tensor], dict[str, Tensor]], images: Tensor) -> Iterator[dict[str, Tensor]]:
        """Yield averages (N, K, rows, W) of the next rows of images, from the top, once all their windows are known.

        Args:
            predict: Returns maps (N, K, h, w) of windows, by name.
            images: (N, C, H, W).
        """
        sums: dict[str, Tensor] = {}  # of the rows from ``top`` on, as many as a window has
        (high, wide), (height, width), top = self.window, self.size, 0
        for crops, corners in self.batches(images):
            parts = {name: maps.split(len(images)) for name, maps in predict(crops).items()}
            for place, (row, left) in enumerate(corners):
                if row > top:
                    yield from self._finished(sums, top, row)
                    top = row
                for name, maps in parts.items():
                    if name not in sums:
                        sums[name] = maps[0].new_zeros((*maps[0].shape[:2], high, width))
                    part = maps[place] if self.weights is None else maps[place] * self.weights.to(maps[place])
                    sums[name][..., left : left + wide] += part
        yield from self._finished(sums, top, height)

    def _finished(self, sums: dict[str, Tensor], top: int, bottom: int) -> Iterator[dict[str, Tensor]]:
        """Yield the averages of these rows, and move the sums below them to the top."""
        for start in range(top, bottom, _ROWS):
            stop = min(start + _ROWS, bottom)
            weights = self._total_weights(start, stop)
            yield {name: maps[..., start - top : stop - top, :] / weights.to(maps) for name, maps in sums.items()}
        for maps in sums.values():
            rest = maps[..., bottom - top :, :].clone()
            maps.zero_()[..., : rest.shape[-2], :] = rest

    def _total_weights(self, top: int, bottom: int) -> Tensor:
        """Return the sum of the weights over each pixel of these rows, (rows, W)."""
        (high, wide), total = self.window, torch.zeros((bottom - top, self.size[1]))
        for y, x in self.corners:
            if y < bottom and y + high > top:
                rows = 1 if self.weights is None else self.weights[max(top - y, 0) : bottom - y]
                total[max(y - top, 0) : y + high - top, x : x + wide] += rows
        return total


def _starts(length: int, side: int, step: int) -> list[int]:
    return [*range(0, length - side, step), max(length - side, 0)]


def _gaussian(size: Size) -> Tensor:
    """Return weights (height, width): a window says little about its border, where it sees no surroundings."""
    rows, columns = (torch.linspace(-4, 4, side + 2)[1:-1].square().div(-2).exp() for side in size)
    return rows[:, None] * columns
