"""Maps looked at in single points, and where to look: mostly where a prediction is unsure.

Kirillov et al., PointRend: Image Segmentation as Rendering, 2020. Points are (x, y) as shares of width and height.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_points(x: Tensor, points: Tensor, align_corners: bool = False, mode: str = "bilinear") -> Tensor:
    """Return the values (N, C, P) of ``x`` (N, C, H, W) at ``points`` (N, P, 2), interpolated; 0 outside."""
    grid = 2.0 * points.unsqueeze(2) - 1.0
    return F.grid_sample(x.to(grid.dtype), grid, mode, align_corners=align_corners).squeeze(3)


@torch.no_grad()
def uncertain_points(
    scores: Tensor,
    uncertainty: Callable[[Tensor], Tensor],
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
) -> Tensor:
    """Return points (N, num_points, 2) to learn from.

    Args:
        scores: (N, C, H, W).
        uncertainty: Scores (N, C, P) to (N, P), higher where less sure.
        num_points: How many.
        oversample_ratio: Candidates per point, drawn evenly.
        importance_sample_ratio: Share of points that are the least sure candidates; the others are drawn evenly.
    """
    count = len(scores)
    candidates = torch.rand(count, int(num_points * oversample_ratio), 2, device=scores.device)
    unsure = int(importance_sample_ratio * num_points)
    chosen = uncertainty(sample_points(scores, candidates)).topk(unsure, dim=1).indices
    points = candidates.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2))
    if unsure == num_points:
        return points
    return torch.cat([points, torch.rand(count, num_points - unsure, 2, device=scores.device)], 1)
