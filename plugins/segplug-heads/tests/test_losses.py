"""Values of the losses, in addition to the reference's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segkernel.errors import ConfigError
from segkernel.interfaces.model import Loss
from segkernel.nn import CrossEntropyLoss
from segplug_heads import (
    DiceLoss,
    FocalLoss,
    HuasdorffDisstanceLoss,
    JaccardLoss,
    KLDivLoss,
    LovaszLoss,
    SiLogLoss,
    SoftDiceLoss,
    TverskyLoss,
    WeightedSum,
)

K = 4


def batch(classes: int = K) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, classes, 12, 14, generator=generator)
    labels = torch.randint(0, max(classes, 2), (2, 12, 14), generator=generator)
    labels[:, :3] = 255
    return scores, labels


def confident(labels: torch.Tensor, classes: int = K) -> torch.Tensor:
    """Return scores that are certain of the labels."""
    return 100.0 * F.one_hot(labels.clamp(max=classes - 1), classes).movedim(-1, 1).float() - 50.0


REGIONS = [
    DiceLoss(use_sigmoid=False, drop_ignored=True),
    FocalLoss(),
    FocalLoss(use_sigmoid=False),
    HuasdorffDisstanceLoss(per_class=True),
    JaccardLoss(),
    LovaszLoss(),
    SoftDiceLoss(),
    TverskyLoss(),
]


@pytest.mark.parametrize("loss", REGIONS, ids=lambda loss: type(loss).__name__)
def test_correct_predictions_have_zero_loss_and_wrong_ones_do_not(loss: Loss) -> None:
    _, labels = batch()
    labels[labels == 255] = 0
    assert loss(confident(labels), labels).item() == pytest.approx(0, abs=1e-3)
    assert loss(confident((labels + 1) % K), labels).item() > 0.3


@pytest.mark.parametrize("loss", REGIONS, ids=lambda loss: type(loss).__name__)
def test_pixels_of_weight_0_do_not_count(loss: Loss) -> None:
    scores, labels = batch()
    labels[labels == 255] = 1
    weight = torch.ones_like(labels, dtype=torch.float32)
    weight[:, :, :5] = 0
    other = scores.clone()
    other[..., :5] = other[..., :5] * 1.1
    assert loss(other, labels, weight=weight).item() == pytest.approx(loss(scores, labels, weight=weight).item())
    assert loss(scores, labels, weight=weight * 0 + 1).item() == pytest.approx(loss(scores, labels).item())


def test_softmax_focal_with_gamma_0_is_cross_entropy() -> None:
    scores, labels = batch()
    focal = FocalLoss(use_sigmoid=False, gamma=0.0, alpha=1.0)
    assert focal(scores, labels).item() == pytest.approx(F.cross_entropy(scores, labels, ignore_index=255).item())


def test_sigmoid_focal_of_one_channel_is_a_yes_or_no() -> None:
    scores, labels = batch(1)
    value = FocalLoss(gamma=0.0, reduction="sum")(scores, labels)
    valid = labels != 255
    expected = F.binary_cross_entropy_with_logits(scores[:, 0][valid], labels[valid].float(), reduction="sum") / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_is_torchs() -> None:
    scores, labels = batch()
    ours = CrossEntropyLoss(label_smoothing=0.1, avg_non_ignore=True)(scores, labels)
    assert ours.item() == pytest.approx(
        F.cross_entropy(scores, labels, ignore_index=255, label_smoothing=0.1).item(), rel=1e-5
    )


def test_lovasz_of_hard_decisions_is_one_minus_iou() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]]])
    decided = torch.tensor([[[0, 1, 1, 1]]])
    loss = LovaszLoss()(100 * F.one_hot(decided, 2).movedim(-1, 1).float(), labels)
    assert loss.item() == pytest.approx(1 - (1 / 2 + 2 / 3) / 2, abs=1e-5)


def test_jaccard_of_hard_decisions_is_one_minus_iou() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]]])
    decided = torch.tensor([[[0, 1, 1, 1]]])
    loss = JaccardLoss()(100 * F.one_hot(decided, 2).movedim(-1, 1).float(), labels)
    assert loss.item() == pytest.approx(1 - (1 / 2 + 2 / 3) / 2, abs=1e-5)


def test_soft_dice_weights_the_classes_of_the_batch_equally() -> None:
    labels = torch.tensor([[[0, 0, 0, 1]], [[0, 0, 0, 255]]])
    decided = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 2]]])
    loss = SoftDiceLoss()(100 * F.one_hot(decided, 3).movedim(-1, 1).float(), labels)
    assert loss.item() == pytest.approx(1 - (10 / 11 + 2 / 3) / 2, abs=1e-5)  # of two classes: the third is absent


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_soft_dice_of_independent_classes(task: str) -> None:
    labels = torch.tensor([[[[0, 1, 1, 255]]]])
    loss = SoftDiceLoss(task=task)(100.0 * torch.tensor([[[[-1, -1, 1, 1]]]]), labels)
    assert loss.item() == pytest.approx(1 - 2 / 3, abs=1e-5)


def test_region_losses_sum_half_precision_exactly() -> None:
    logits, labels = torch.zeros(1, 2, 600, 600), torch.zeros(1, 600, 600, dtype=torch.long)
    labels[..., :3] = 1
    for loss in (SoftDiceLoss(), JaccardLoss()):
        assert loss(logits.bfloat16(), labels).item() == pytest.approx(loss(logits, labels).item(), abs=1e-6)


def learn_a_rare_class(loss: Loss | None) -> float:
    """Return the IoU of a class of one pixel in a hundred, after 80 steps with cross-entropy and a loss."""
    generator = torch.Generator().manual_seed(0)

    def noisy_squares(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = (torch.rand(count, 1, 12, 12, generator=generator) < 0.01).float()
        labels = F.interpolate(labels, scale_factor=4.0)
        return torch.randn(labels.shape, generator=generator) + labels, labels.squeeze(1).long()

    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    model = nn.Sequential(*layers, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(80):
        images, labels = noisy_squares(6)
        logits = model(images)
        total = F.cross_entropy(logits, labels) + (loss(logits, labels) if loss else 0)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    images, labels = noisy_squares(20)
    found = model.eval()(images).argmax(1) == 1
    return float((found & (labels == 1)).sum() / (found | (labels == 1)).sum())


def test_losses_of_regions_learn_a_rare_class_that_cross_entropy_misses() -> None:
    assert learn_a_rare_class(None) < 0.01
    for loss in (SoftDiceLoss(), JaccardLoss(), TverskyLoss(), LovaszLoss()):
        assert learn_a_rare_class(loss) > 0.2, type(loss).__name__


def test_tversky_of_equal_halves_is_dice() -> None:
    scores, labels = batch()
    labels[labels == 255] = 0
    value = TverskyLoss(alpha=0.5, beta=0.5, smooth=1e-6)(scores, labels)
    chances, truth = scores.softmax(1).flatten(2), F.one_hot(labels, K).movedim(-1, 1).flatten(2)
    dice = 2 * (chances * truth).sum(2) / (chances + truth).sum(2)
    assert value.item() == pytest.approx((1 - dice).mean().item(), rel=1e-4)


def test_far_errors_cost_more_than_near_ones() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[:, 10:20, 10:20] = 1
    near, far = labels.clone(), labels.clone()
    near[:, 10:20, 20:22] = 1
    far[:, 10:12, 24:32] = 1
    loss = HuasdorffDisstanceLoss(per_class=True)
    wide = labels.clone()
    wide[:, 4:26, 4:26] = 1
    assert loss(confident(wide, 2), labels) > loss(confident(near, 2), labels) > 0


def test_divergence_from_equal_scores_is_0() -> None:
    scores, _ = batch()
    assert KLDivLoss(log_input=True)(scores, scores).abs().max().item() < 1e-6
    assert KLDivLoss(log_input=True, reduction="sum")(scores, -scores).min().item() > 1


def test_depth_loss_forgives_a_common_factor_by_half() -> None:
    depth = torch.rand(2, 1, 8, 8) + 1
    assert SiLogLoss()(depth, depth).item() == 0
    assert SiLogLoss()(2 * depth, depth).item() == pytest.approx(math.sqrt(0.5) * math.log(2), rel=1e-4)


def test_depth_loss_of_an_image_without_measurements_is_0_with_a_gradient() -> None:
    depth = torch.rand(1, 1, 4, 4, requires_grad=True)
    SiLogLoss()(depth, torch.zeros(1, 4, 4)).backward()
    assert depth.grad is not None
    assert torch.isfinite(depth.grad).all()


def test_a_weighted_sum_is_the_sum_of_its_terms() -> None:
    scores, labels = batch()
    terms = [CrossEntropyLoss(), LovaszLoss()]
    expected = 2 * terms[0](scores, labels) + 0.5 * terms[1](scores, labels)
    assert WeightedSum(terms, [2.0, 0.5])(scores, labels).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "loss", [FocalLoss, LovaszLoss, TverskyLoss, JaccardLoss, HuasdorffDisstanceLoss, CrossEntropyLoss]
)
def test_class_weights_of_another_number_are_refused(loss: type[Loss]) -> None:
    with pytest.raises(ConfigError, match=r"class_weight.*3 numbers for 4 classes|3 numbers for 4 classes"):
        loss(class_weight=[1.0, 2.0, 3.0])(*batch())


def test_class_weights_come_from_a_file(tmp_path) -> None:
    np.save(tmp_path / "weights.npy", np.array([1.0, 2.0, 3.0, 4.0]))
    listed = FocalLoss(class_weight=[1.0, 2.0, 3.0, 4.0])
    assert torch.equal(listed(*batch()), FocalLoss(class_weight=str(tmp_path / "weights.npy"))(*batch()))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: FocalLoss(gamma=-1.0), "gamma"),
        (lambda: WeightedSum([LovaszLoss()], [1.0, 2.0]), "2 weights for 1 losses"),
        (lambda: LovaszLoss("binary")(*batch()), "one channel"),
        (lambda: CrossEntropyLoss(use_sigmoid=True, label_smoothing=0.1), "softmax"),
    ],
)
def test_bad_arguments_are_named(make, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        make()
