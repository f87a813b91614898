"""A layer that configs name in ``act_cfg``: {type: MyModelActivation}."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MyModelActivation(nn.Module):
    """Snake, x + sin(ax)^2 / a with a learned a (Ziyin et al., 2020, https://arxiv.org/abs/2006.08195).

    Args:
        alpha: Initial a.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return x + (self.alpha * x).sin().square() / self.alpha
