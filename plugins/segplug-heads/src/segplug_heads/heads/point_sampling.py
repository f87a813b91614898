"""Sampling of maps at points, and of points where a prediction is uncertain.

PointRend: Image Segmentation as Rendering, Kirillov et al., 2020 (https://arxiv.org/abs/1912.08193). Points are (x, y),
from 0 to 1 over the width and height of a map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PointSampling:
    """Settings of the sampling of training points.

    Args:
        num_points: Points per map.
        oversample_ratio: Uniform candidates per point, k in section 3.2 of the paper.
        importance_sample_ratio: Fraction of the points that are the most uncertain candidates, beta in the paper; the
            others are uniform.
    """

    num_points: int
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75


def sample_points(x: Tensor, points: Tensor, align_corners: bool = False, mode: str = "bilinear") -> Tensor:
    """Return the interpolated values (N, C, P) of ``x`` (N, C, H, W) at ``points`` (N, P, 2); 0 outside the map."""
    grid = 2.0 * points.unsqueeze(2) - 1.0
    return F.grid_sample(x.to(grid.dtype), grid, mode, align_corners=align_corners).squeeze(3)


@torch.no_grad()
def uncertain_points(logits: Tensor, uncertainty: Callable[[Tensor], Tensor], sampling: PointSampling) -> Tensor:
    """Return training points (N, num_points, 2).

    Args:
        logits: (N, C, H, W).
        uncertainty: Logits (N, C, P) to (N, P), higher where the prediction is less certain.
        sampling: Number of points and how they are drawn.
    """
    batch, num_points = len(logits), sampling.num_points
    candidates = torch.rand(batch, int(num_points * sampling.oversample_ratio), 2, device=logits.device)
    num_uncertain = int(sampling.importance_sample_ratio * num_points)
    # The uncertainty of interpolated logits, not interpolated uncertainties: halfway between -1 and 1 it is greatest.
    # Without `align_corners`, as in the reference, even if the head samples with it: this only ranks candidates.
    chosen = uncertainty(sample_points(logits, candidates)).topk(num_uncertain, dim=1).indices
    points = candidates.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2))
    if num_uncertain == num_points:
        return points
    return torch.cat([points, torch.rand(batch, num_points - num_uncertain, 2, device=logits.device)], 1)


def uncertainty(logits: Tensor) -> Tensor:
    """Return minus the margin between the best two classes of logits (N, K, P), (N, P): 0 for a tie.

    A single class ties at a logit of 0, the probability 1/2.
    """
    if logits.shape[1] == 1:
        return -logits[:, 0].abs()
    best, second = logits.topk(2, dim=1).values.unbind(1)
    return second - best
