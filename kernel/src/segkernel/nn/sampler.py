"""Pixel samplers, such as OHEM: the selection of pixels that a head's losses count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from segkernel.annotations import NonNegativeInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Loss
from segkernel.nn.losses import PixelLoss
from segkernel.nn.ranks import kth_of_valid, kth_smallest_over_ranks, shares_batch, sum_over_ranks
from segkernel.nn.upsampled import map_tiles, upsample_cross_entropy


class PixelSampler(ABC):
    """Base class of pixel samplers, which return a weight per pixel."""

    component_group = "parts"
    at_stride: ClassVar[bool] = False
    """As in `Loss`: whether `sample` takes logits at the head's own stride, and ``align_corners``."""

    @abstractmethod
    def sample(self, logits: Tensor, target: Tensor, losses: Sequence[Loss], ignore_index: int) -> Tensor:
        """Return a weight per pixel (N, H, W) for ``logits`` (N, K, H, W) and class ids ``target`` (N, H, W).

        Args:
            logits: At the size of the labels.
            target: Class ids.
            losses: Losses of the head, for samplers that rank pixels by loss.
            ignore_index: Label of ignored pixels.
        """


class OHEMPixelSampler(PixelSampler):
    """Online hard example mining: only hard pixels count (Shrivastava et al., 2016).

    Args:
        thresh: Pixels whose true class has a lower probability than this are hard; None keeps those of highest loss.
        min_kept: Pixels per image to keep at least, or, without ``thresh``, exactly; in training, over the images of
            all ranks, where equal losses at the limit are all kept.
    """

    at_stride: ClassVar[bool] = True

    def __init__(self, thresh: Probability | None = None, min_kept: NonNegativeInt = 100000) -> None:
        if min_kept < 2:
            raise ConfigError(Problem(f"{min_kept} pixels; at least 2 are needed", "min_kept"))
        self.thresh, self.min_kept = thresh, min_kept

    @torch.no_grad()
    def sample(
        self,
        logits: Tensor,
        target: Tensor,
        losses: Sequence[Loss],
        ignore_index: int,
        align_corners: bool = False,
    ) -> Tensor:
        shared, target = shares_batch() and logits.requires_grad, target.long()  # else evaluation
        valid = target != ignore_index
        if self.thresh is None:
            of_pixels = map_tiles(partial(_sum_of_losses, losses, ignore_index), logits, target, align_corners)
            chosen = self._highest_loss(of_pixels, valid, shared)
        else:
            options: Any = {"ignore_index": ignore_index, "align_corners": align_corners}
            of_truth = upsample_cross_entropy(logits.float(), target, **options).neg_().exp_()
            chosen = self._least_probable(of_truth, valid, self.thresh, shared)
        return (chosen & valid).to(logits.dtype)

    def _least_probable(self, of_truth: Tensor, valid: Tensor, thresh: float, shared: bool) -> Tensor:
        of_truth = of_truth.masked_fill(~valid, 2.0)  # sorted last
        kept = torch.tensor(self.min_kept * len(valid), device=valid.device)
        limit = kth_of_valid(of_truth, valid, sum_over_ranks(kept) if shared else kept, shared)
        return of_truth < limit.clamp(min=thresh)

    def _highest_loss(self, loss: Tensor, valid: Tensor, shared: bool) -> Tensor:
        loss = loss.masked_fill(~valid, -torch.inf).flatten()
        count = min(self.min_kept * len(valid), loss.numel())
        if shared:
            left_out = sum_over_ranks(valid.new_tensor(loss.numel() - count, dtype=torch.long))
            return (loss.float() >= kth_smallest_over_ranks(loss, left_out)).view_as(valid)
        kept = loss.topk(count, sorted=False).indices
        return torch.zeros_like(loss, dtype=torch.bool).index_fill_(0, kept, True).view_as(valid)


def _sum_of_losses(losses: Sequence[Loss], ignore_index: int, logits: Tensor, target: Tensor) -> Tensor:
    """Return the sum (N, H, W) of the losses of each pixel."""
    total = torch.zeros(target.shape, device=logits.device)
    for loss in losses:
        if not isinstance(loss, PixelLoss):
            raise ConfigError(Problem(f"{type(loss).__name__} has no value per pixel; set thresh", "sampler"))
        total = total + loss.per_pixel(logits, target, ignore_index)
    return total
