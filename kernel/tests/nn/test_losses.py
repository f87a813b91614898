"""Cross-entropy, accuracy and hard example mining: their behaviour beyond the reference values, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from segkernel.errors import ConfigError, DataError
from segkernel.interfaces.model import Loss
from segkernel.nn import CrossEntropyLoss, OHEMPixelSampler, StridedLogits, accuracy, resize
from segkernel.nn.losses import binary_accuracy


@pytest.fixture
def scores() -> Tensor:
    return torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    ids = torch.randint(0, 3, (2, 6, 7), generator=torch.Generator().manual_seed(1))
    ids[:, :2] = 255
    return ids


@pytest.mark.parametrize(
    "options", [{}, {"avg_non_ignore": True}, {"use_sigmoid": True}, {"class_weight": [1.0, 2.0, 3.0]}]
)
def test_an_unlabelled_batch_has_a_loss_of_zero(options: dict, scores: Tensor) -> None:
    scores.requires_grad_()
    value = CrossEntropyLoss(**options)(scores, torch.full((2, 6, 7), 255))
    value.backward()
    assert value.item() == 0
    assert scores.grad is not None
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("avg_non_ignore", [False, True])
def test_equal_class_weights_change_nothing(avg_non_ignore: bool, scores: Tensor, labels: Tensor) -> None:
    weighted = CrossEntropyLoss(class_weight=[2.0, 2.0, 2.0], avg_non_ignore=True)
    assert torch.allclose(weighted(scores, labels), CrossEntropyLoss(avg_non_ignore=True)(scores, labels))
    ones = CrossEntropyLoss(class_weight=[1.0, 1.0, 1.0], avg_non_ignore=avg_non_ignore)
    assert torch.allclose(ones(scores, labels), CrossEntropyLoss(avg_non_ignore=avg_non_ignore)(scores, labels))


def test_sigmoid_has_a_weight_per_class(scores: Tensor, labels: Tensor) -> None:
    one = CrossEntropyLoss(use_sigmoid=True, class_weight=[2.0])
    each = CrossEntropyLoss(use_sigmoid=True, class_weight=[2.0, 2.0, 2.0])
    assert torch.allclose(one(scores, labels), each(scores, labels))


def test_labels_may_be_bytes(scores: Tensor, labels: Tensor) -> None:
    assert torch.equal(CrossEntropyLoss()(scores, labels.byte()), CrossEntropyLoss()(scores, labels))


def test_the_target_of_a_sigmoid_may_be_a_probability() -> None:
    scores, shares = torch.randn(3, 5), torch.rand(3, 5)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, shares)
    assert torch.isclose(CrossEntropyLoss(use_sigmoid=True)(scores, shares), expected)


def test_class_weight_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.array([1.0, 2.0]))
    (tmp_path / "w.json").write_text(json.dumps([1, 2]))
    for name in ("w.npy", "w.json"):
        assert CrossEntropyLoss(class_weight=str(tmp_path / name)).class_weight == [1.0, 2.0]


@pytest.mark.parametrize("content", [None, "{", "3", '["a"]', '{"a": 1}'])
def test_an_invalid_class_weight_file_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "w.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"w\.json"):
        CrossEntropyLoss(class_weight=str(path))


def test_a_class_weight_file_with_code_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        CrossEntropyLoss(class_weight=str(tmp_path / "w.npy"))


def test_class_weight_of_another_length(scores: Tensor, labels: Tensor) -> None:
    with pytest.raises(ConfigError, match="2 numbers for 3 classes"):
        CrossEntropyLoss(class_weight=[1.0, 2.0])(scores, labels)


def test_sigmoid_and_mask_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="use_mask"):
        CrossEntropyLoss(use_sigmoid=True, use_mask=True)


def test_a_sum_has_no_average_factor(scores: Tensor, labels: Tensor) -> None:
    with pytest.raises(ConfigError, match="avg_factor"):
        CrossEntropyLoss(reduction="sum")(scores, labels, avg_factor=3)


def test_loss_is_not_part_of_the_state() -> None:
    assert CrossEntropyLoss(class_weight=[1.0, 2.0]).state_dict() == {}


def test_accuracy_of_known_pixels() -> None:
    scores = torch.tensor([[[[3.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]], [[1.0, 1.0, 5.0]]]])
    target = torch.tensor([[[0, 2, 255]]])
    first, second = accuracy(scores, target, topk=(1, 2), ignore_index=255)
    assert first.item() == pytest.approx(50)
    assert second.item() == pytest.approx(100)


def test_accuracy_with_a_threshold_on_maps() -> None:
    scores = torch.tensor([[[[3.0, 1.0]], [[0.0, 0.0]]]])
    value = accuracy(scores, torch.zeros(1, 1, 2, dtype=torch.long), thresh=2.0)
    assert float(value) == pytest.approx(50)  # type: ignore[arg-type]


def test_topk_of_more_than_the_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="topk"):
        accuracy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), topk=4)


@pytest.mark.parametrize("thresh", [None, 0.7])
def test_ignored_pixels_are_not_kept(thresh: float | None, scores: Tensor, labels: Tensor) -> None:
    weight = OHEMPixelSampler(thresh, min_kept=10).sample(scores, labels, [CrossEntropyLoss()], 255)
    assert (weight[labels == 255] == 0).all()
    assert weight.sum() >= 20


@pytest.mark.parametrize("thresh", [None, 0.7])
def test_no_pixels_of_an_unlabelled_batch_are_kept(thresh: float | None, scores: Tensor) -> None:
    weight = OHEMPixelSampler(thresh).sample(scores, torch.full((2, 6, 7), 255), [CrossEntropyLoss()], 255)
    assert weight.sum() == 0


def test_mining_by_the_loss_needs_a_loss_per_pixel(scores: Tensor, labels: Tensor) -> None:
    class Whole(Loss):
        name = "loss_whole"

    with pytest.raises(ConfigError, match="Whole"):
        OHEMPixelSampler().sample(scores, labels, [Whole()], 255)


def test_mining_of_a_sigmoid_loss(scores: Tensor, labels: Tensor) -> None:
    weight = OHEMPixelSampler(min_kept=5).sample(scores, labels, [CrossEntropyLoss(use_sigmoid=True)], 255)
    assert weight.sum() == 10


def test_at_least_two_pixels() -> None:
    with pytest.raises(ConfigError, match="min_kept"):
        OHEMPixelSampler(min_kept=1)


# ---------------------------------------------------------------- logits at the model's own stride


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("options", [{}, {"use_sigmoid": True}, {"class_weight": [1.0, 2.0, 3.0]}])
def test_the_loss_at_a_stride_equals_that_of_upsampled_logits(options: dict, align_corners: bool) -> None:
    small = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.randint(0, 3, (2, 16, 20), generator=torch.Generator().manual_seed(1))
    target[:, :3] = 255
    loss = CrossEntropyLoss(**options)
    value = loss(small, target, align_corners=align_corners)
    expected = loss(resize(small, (16, 20), align_corners=align_corners), target)
    assert torch.equal(value, expected)
    assert torch.equal(*(torch.autograd.grad(v, small)[0] for v in (value, expected)))
    full = resize(small.detach(), (16, 20), align_corners=align_corners)
    assert accuracy(small, target, align_corners=align_corners) == accuracy(full, target)
    binary = (target[:, None] == 1).long().expand(-1, 3, -1, -1)
    assert binary_accuracy(small, binary, 0.5, align_corners=align_corners) == binary_accuracy(full, binary, 0.5)
    for thresh in (None, 0.7):
        sampler = OHEMPixelSampler(thresh, min_kept=50)
        found = sampler.sample(small, target, [loss], 255, align_corners)
        assert torch.equal(found, sampler.sample(full, target, [loss], 255))


class Noting(Loss):
    """Keeps its arguments."""

    name = "loss_noting"

    def __init__(self, at_stride: bool) -> None:
        super().__init__()
        self.at_stride, self.given = at_stride, []

    def forward(self, logits: Tensor, target: Tensor, **options: object) -> Tensor:
        self.given.append((logits, options))
        return logits.mean()


def test_losses_that_take_upsampled_logits_share_one_copy() -> None:
    small, target = torch.randn(1, 3, 4, 5), torch.zeros(1, 16, 20, dtype=torch.long)
    strided = StridedLogits(small, target.shape[-2:], align_corners=True)
    first, second, own = Noting(False), Noting(False), Noting(True)
    for loss in (own, first, second):
        strided.loss(loss, target, ignore_index=7)
    (given, options), (again, _), (kept, more) = first.given[0], second.given[0], own.given[0]
    assert given is again
    assert given.shape == (1, 3, 16, 20)
    assert options == {"ignore_index": 7}
    assert kept is small
    assert more == {"ignore_index": 7, "align_corners": True}
