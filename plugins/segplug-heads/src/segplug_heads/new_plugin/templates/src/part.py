"""A part of decode heads: a pixel sampler, the argument ``sampler`` of every head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segkernel.annotations import Probability
from segkernel.interfaces.model import Loss
from segkernel.nn import PixelSampler


class MyModelPixelSampler(PixelSampler):
    """Count a random share of the pixels in the losses.

    Args:
        share: Probability with which a pixel is counted.
    """

    def __init__(self, share: Probability = 0.5) -> None:
        self.share = share

    @torch.no_grad()
    def sample(self, logits: Tensor, target: Tensor, losses: Sequence[Loss], ignore_index: int) -> Tensor:
        """Return a weight of 1 or 0 for each pixel (N, H, W)."""
        chosen = torch.rand(target.shape, device=target.device) < self.share
        return (chosen & (target != ignore_index)).to(logits.dtype)
