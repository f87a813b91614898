"""Checks of losses."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from segkernel.catalog import Catalog  # noqa: E402
from segkernel.interfaces.model import Loss  # noqa: E402
from segkernel.testing import check_object  # noqa: E402


class GoodLoss(Loss):
    """Mean cross-entropy over the pixels that count."""

    name = "loss_good"

    def forward(
        self,
        scores: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        values = cross_entropy(scores, target, ignore_index=ignore_index, reduction="none")
        divisor = (target != ignore_index).sum().clamp(min=1) if avg_factor is None else avg_factor
        return (values if weight is None else values * weight).sum() / divisor


class Unnamed(GoodLoss):
    """Has a name without "loss"."""

    name = "good"


class PerPixel(GoodLoss):
    """Returns a map."""

    def forward(self, scores: Tensor, target: Tensor, *, ignore_index: int = 255, **more: Any) -> Tensor:
        return cross_entropy(scores, target, ignore_index=ignore_index, reduction="none")


class DividesByNothing(GoodLoss):
    """Is NaN for an unlabelled batch."""

    def forward(self, scores: Tensor, target: Tensor, *, ignore_index: int = 255, **more: Any) -> Tensor:
        return cross_entropy(scores, target, ignore_index=ignore_index)


class CountsIgnored(GoodLoss):
    """Counts ignored pixels as class 0."""

    def forward(self, scores: Tensor, target: Tensor, *, ignore_index: int = 255, **more: Any) -> Tensor:
        return cross_entropy(scores, target.where(target != ignore_index, torch.zeros_like(target)))


class WrongGradient(GoodLoss):
    """Has the gradient of half the value."""

    def forward(self, scores: Tensor, target: Tensor, **more: Any) -> Tensor:
        value = super().forward(scores, target, **more)
        return value / 2 + value.detach() / 2


def failed(target: object) -> set[str]:
    return {result.check for result in check_object("losses", target, catalog=Catalog()) if result.status == "failed"}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (GoodLoss, set()),
        (Unnamed, {"scalar"}),
        (PerPixel, {"scalar", "pixel-weights", "avg-factor", "all-ignored"}),
        (DividesByNothing, {"pixel-weights", "avg-factor", "all-ignored"}),
        (CountsIgnored, {"ignored-pixels", "pixel-weights", "avg-factor", "all-ignored"}),
        (WrongGradient, {"gradient"}),
    ],
)
def test_a_faulty_loss_fails_the_expected_checks(target: Any, expected: set[str]) -> None:
    assert failed(target) == expected
