"""Stochastic depth: residual branches dropped at random, per image, while training.

Deep Networks with Stochastic Depth, Huang et al., 2016 (https://arxiv.org/abs/1603.09382).
"""

from __future__ import annotations

from torch import Tensor, nn


def drop_path(x: Tensor, drop_prob: float = 0.0, training: bool = False) -> Tensor:
    """Zero the images of ``x`` (N, ...) with probability ``drop_prob``, in training only.

    The others are divided by ``1 - drop_prob``, which keeps the expected value.
    """
    if drop_prob == 0.0 or not training:
        return x
    keep = 1 - drop_prob
    mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    return x * mask / keep


class DropPath(nn.Module):
    """`drop_path` as a layer; ``drop_prob`` is in [0, 1)."""

    def __init__(self, drop_prob: float = 0.1) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_prob, self.training)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}"


def linear_drop_path_rates(rate: float, depth: int) -> list[float]:
    """Return the drop path rate of each of ``depth`` layers: 0 for the first, rising linearly to ``rate``.

    They are Python floats, not elements of ``torch.linspace``, so that a model can be built on the meta device.
    """
    return [rate * i / max(depth - 1, 1) for i in range(depth)]
