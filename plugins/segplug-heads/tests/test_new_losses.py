"""Losses on regions, borders and skeletons: values that can be computed by hand, and the tasks they serve."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segplug_heads import (
    FocalLoss,
    GeneralizedDiceLoss,
    LovaszLoss,
    MCCLoss,
    PolyLoss,
    RMILoss,
    SoftBCELoss,
    SoftCLDiceLoss,
    SoftTverskyLoss,
    UnifiedFocalLoss,
)

MULTILABEL: list[Any] = [
    FocalLoss(reduced_threshold=0.5), GeneralizedDiceLoss(use_sigmoid=True), LovaszLoss("binary"),
    MCCLoss(use_sigmoid=True), PolyLoss(use_sigmoid=True), RMILoss(), SoftBCELoss(0.1),
    SoftCLDiceLoss(use_sigmoid=True),
    SoftTverskyLoss(use_sigmoid=True, gamma=0.75),
]  # fmt: skip


def logits_of(labels: Tensor, classes: int, confidence: float = 20.0) -> Tensor:
    return confidence * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


@pytest.mark.parametrize("loss", MULTILABEL, ids=lambda loss: type(loss).__name__)
def test_independent_classes_are_learnt_and_ignored_pixels_do_not_count(loss: Any) -> None:
    torch.manual_seed(0)
    target = (torch.rand(2, 3, 24, 24) < 0.4).long()
    target[..., :4] = 255
    logits = torch.randn(2, 3, 24, 24).requires_grad_()
    other = logits.detach() + 5 * (target == 255)
    assert torch.allclose(loss(logits, target), loss(other, target), atol=1e-6)
    optimizer = torch.optim.Adam([logits], 0.1)
    first = loss(logits, target)
    for _ in range(5):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    assert loss(logits, target) < first


def test_generalised_dice_weights_classes_by_their_inverse_squared_size() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 0, 0] = 1
    logits = logits_of(torch.zeros_like(labels), 2)  # class 1 is missed
    both, sizes = torch.tensor([15.0, 0.0]), torch.tensor([16.0 + 15, 1.0])
    weights = torch.tensor([1 / 225, 1.0])
    expected = 1 - 2 * (weights * both).sum() / (weights * sizes).sum()
    torch.testing.assert_close(GeneralizedDiceLoss()(logits, labels), expected, rtol=1e-4, atol=1e-4)


def test_poly_adds_the_error_to_the_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    error = 1 - (-entropy).exp()
    torch.testing.assert_close(PolyLoss(2.0)(logits, labels), (entropy + 2 * error).mean())
    torch.testing.assert_close(PolyLoss(2.0, gamma=2.0)(logits, labels), (error**2 * (entropy + 2 * error)).mean())


@pytest.mark.parametrize("loss", [MCCLoss(), UnifiedFocalLoss(), SoftCLDiceLoss(iterations=2), GeneralizedDiceLoss()])
def test_right_predictions_have_no_loss_and_wrong_ones_much(loss: Any) -> None:
    labels = torch.zeros(2, 16, 16, dtype=torch.long)
    labels[:, 4:6, 2:14] = 1
    assert loss(logits_of(labels, 2), labels) < 0.03
    assert loss(logits_of(1 - labels, 2), labels) > 0.5


def test_a_gap_costs_more_in_centreline_dice_than_a_thinner_line() -> None:
    labels = torch.zeros(1, 16, 32, dtype=torch.long)
    labels[:, 6:9, 2:30] = 1
    thin, gap = labels.clone(), labels.clone()
    thin[:, 6], thin[:, 8] = 0, 0
    gap[:, :, 12:20] = 0
    loss = SoftCLDiceLoss(iterations=3)
    assert loss(logits_of(gap, 2), labels) > loss(logits_of(thin, 2), labels) + 0.05


def test_one_channel_is_a_binary_map() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 8, 8))
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(UnifiedFocalLoss()(logits, labels), UnifiedFocalLoss()(two, labels))
    assert 0 < MCCLoss()(logits, labels) < 2


def test_neighbourhoods_alike_have_more_mutual_information() -> None:
    torch.manual_seed(0)
    labels = (torch.rand(2, 1, 64, 64) < 0.5).long().repeat_interleave(4, 2)[:, :, :64]
    right = 8.0 * (2 * labels.float() - 1)
    assert RMILoss()(right, labels) < RMILoss()(right.flip(3), labels)
