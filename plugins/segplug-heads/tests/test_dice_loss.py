"""The Dice loss: known values, and what ``drop_ignored`` changes."""

from __future__ import annotations

import pytest
import torch

from segplug_heads import DiceLoss


@pytest.fixture
def labels() -> torch.Tensor:
    ids = torch.randint(0, 3, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    ids[:, :2] = 255
    return ids


def perfect(labels: torch.Tensor) -> torch.Tensor:
    return 50.0 * torch.nn.functional.one_hot(labels % 255, 3).movedim(-1, 1)


def test_correct_everywhere_is_zero(labels: torch.Tensor) -> None:
    labels = labels % 255
    assert DiceLoss(use_sigmoid=False)(perfect(labels), labels).item() == pytest.approx(0, abs=1e-4)


def test_wrong_everywhere_is_one(labels: torch.Tensor) -> None:
    labels = labels % 255
    assert DiceLoss(use_sigmoid=False)(perfect((labels + 1) % 3), labels).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("naive", [False, True])
def test_dropped_pixels_do_not_count(naive: bool, labels: torch.Tensor) -> None:
    loss = DiceLoss(naive_dice=naive, drop_ignored=True)
    scores = torch.randn(2, 3, 5, 6)
    other = torch.where((labels == 255).unsqueeze(1), scores + 3, scores)
    assert torch.equal(loss(scores, labels), loss(other, labels))


@pytest.mark.parametrize("naive", [False, True])
def test_nothing_labelled_is_zero_with_a_gradient(naive: bool) -> None:
    scores = torch.randn(2, 3, 5, 6, requires_grad=True)
    value = DiceLoss(naive_dice=naive, drop_ignored=True)(scores, torch.full((2, 5, 6), 255))
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(scores.grad).all()  # type: ignore[arg-type]


def test_a_class_can_be_left_out(labels: torch.Tensor) -> None:
    scores = torch.randn(2, 3, 5, 6)
    other = scores.clone()
    other[:, 1] += 2.0
    loss = DiceLoss(use_sigmoid=True, ignore_index=1)
    assert torch.equal(loss(scores, labels), loss(other, labels))


def test_images_can_be_weighted(labels: torch.Tensor) -> None:
    scores, each = torch.randn(2, 3, 5, 6), DiceLoss(reduction="none")
    weighted = DiceLoss()(scores, labels, weight=torch.tensor([2.0, 0.0]))
    assert torch.allclose(weighted, each(scores, labels)[0])
