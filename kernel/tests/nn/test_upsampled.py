"""Cross-entropy and the best class of upsampled logits in tiles of rows, against those without tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import library
from torch.nn import functional as F

from segkernel.nn import CrossEntropyLoss, OHEMPixelSampler, accuracy, upsample_cross_entropy, upsample_max, upsampled


@pytest.fixture
def tiny_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of a few rows for the smallest logits."""
    monkeypatch.setattr(upsampled, "LARGE", 0)
    monkeypatch.setattr(upsampled, "_TILE", 2000)


def random_case(seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    chance = np.random.default_rng(seed)
    count, classes, height, width, rows, columns = chance.integers(1, [4, 201 if seed % 5 == 0 else 20, 20, 20, 90, 90])
    torch.manual_seed(seed)
    logits = torch.randn(count, classes, height, width, dtype=dtype)
    target = torch.randint(0, classes, (count, rows, columns))
    target[torch.rand(target.shape) < (1.0 if seed % 7 == 0 else 0.2)] = 255
    options = {
        "align_corners": bool(seed % 2),
        "label_smoothing": 0.1 * (seed // 2 % 2),
        "class_weight": torch.rand(classes, dtype=dtype) if seed // 4 % 2 else None,
    }
    return logits, target, options


def at_once(logits, target, align_corners, label_smoothing, class_weight):
    full = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(
        full, target, class_weight, reduction="none", label_smoothing=label_smoothing, ignore_index=255
    )


@pytest.mark.usefixtures("tiny_tiles")
@pytest.mark.parametrize("seed", range(24))
def test_value_and_gradient_equal_those_without_tiles(seed):
    logits, target, options = random_case(seed)
    first, second = logits.requires_grad_(), logits.detach().clone().requires_grad_()
    expected, found = at_once(first, target, **options), upsample_cross_entropy(second, target, **options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    change = torch.randn_like(expected)
    expected.backward(change)
    found.backward(change)
    torch.testing.assert_close(second.grad, first.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("tiny_tiles")
def test_half_precision_is_computed_in_float32():
    logits, target, options = random_case(2, torch.bfloat16)
    exact = logits.float().requires_grad_()
    logits.requires_grad_()
    expected, found = at_once(exact, target, **options), upsample_cross_entropy(logits, target, **options)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    expected.sum().backward()
    found.sum().backward()
    torch.testing.assert_close(logits.grad, exact.grad.bfloat16())


@pytest.mark.usefixtures("tiny_tiles")
@pytest.mark.parametrize("seed", range(6))
def test_the_best_class_equals_that_without_tiles(seed):
    logits, target, options = random_case(seed)
    full = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=options["align_corners"])
    values, labels = upsample_max(logits, target.shape[1:], options["align_corners"])
    torch.testing.assert_close(values, full.max(1).values, rtol=1e-10, atol=1e-10)
    assert torch.equal(full.gather(1, labels.unsqueeze(1)).squeeze(1), full.max(1).values)


def test_loss_accuracy_and_hard_pixels_are_the_same_in_tiles(monkeypatch):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 6, 9, 11), torch.randint(0, 6, (2, 40, 50))
    target[:, :9] = 255
    loss = CrossEntropyLoss(class_weight=[1, 2, 3, 4, 5, 6], avg_non_ignore=True, label_smoothing=0.1)
    sampler = OHEMPixelSampler(thresh=0.3, min_kept=100)

    def found():
        weight = sampler.sample(logits, target, [loss], 255)
        return [weight, loss(logits, target, weight=weight), accuracy(logits, target, ignore_index=255)]

    expected = found()
    monkeypatch.setattr(upsampled, "LARGE", 0)
    monkeypatch.setattr(upsampled, "_TILE", 2000)
    torch.testing.assert_close(found(), expected)
    monkeypatch.setenv("SEGKERNEL_TILED_LOSS", "0")
    monkeypatch.setattr(upsampled, "tiles", None)  # no longer called
    torch.testing.assert_close(found(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [{}, {"avg_non_ignore": True}, {"class_weight": [1, 2, 3, 4, 5, 6]}, {"reduction": "sum"}]
)
@pytest.mark.parametrize("kind", ["ids", "labels", "probabilities", "one channel"])
def test_a_sigmoid_per_class_is_the_same_in_tiles(monkeypatch, options, kind):
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 9, 11, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 6 if kind == "ids" else 2, (2, 40, 50) if kind == "ids" else (2, 6, 40, 50))
    if kind == "one channel":
        logits, target = logits.detach()[:, :1].requires_grad_(), target[:, 0]
        options = options | ({"class_weight": [1, 2]} if "class_weight" in options else {})
    target[:, -9:] = 255
    target = target.double() if kind == "probabilities" else target
    loss, weight = CrossEntropyLoss(use_sigmoid=True, **options), torch.rand(2, 40, 50).double()

    def found():
        value = loss(logits, target, weight=weight)
        return value, *torch.autograd.grad(value, logits)

    expected = found()
    monkeypatch.setattr(upsampled, "LARGE", 0)
    monkeypatch.setattr(upsampled, "_TILE", 2000)
    torch.testing.assert_close(found(), expected)


@pytest.mark.usefixtures("tiny_tiles")
def test_the_operator_can_be_compiled():
    logits, target, options = random_case(9)
    arguments = (logits.requires_grad_(), target, options["class_weight"], 255, 0.1, True)
    library.opcheck(upsampled.OPERATOR, arguments)
