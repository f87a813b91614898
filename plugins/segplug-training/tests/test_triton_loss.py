"""Triton's kernels for the loss of enlarged logits against the plain form; in Triton's interpreter without a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.nn import upsample_cross_entropy, upsampled

pytest.importorskip("triton", "3.2", reason="needs Triton 3.2, whose interpreter knows constants")

from segplug_training import triton_loss

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("seed", range(8))
def test_value_and_gradient_are_those_of_the_plain_form(seed: int) -> None:
    chance = np.random.default_rng(seed)
    classes = int(chance.integers(100, 201) if seed == 4 else chance.integers(1, 20))
    count, height, width, rows, columns = chance.integers(1, [3, 4, 4, 6, 6])
    draw = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if seed == 5 else torch.float32
    logits = torch.randn(count, classes, height, width, generator=draw).to(DEVICE, dtype)
    target = torch.randint(0, classes, (count, rows, columns), generator=draw)
    target[torch.rand(target.shape, generator=draw) < (1.0 if seed == 7 else 0.2)] = 255
    target, grad = target.to(DEVICE), torch.randn(target.shape, generator=draw).to(DEVICE)
    weight = torch.rand(classes, generator=draw).to(DEVICE) if seed // 4 % 2 else None
    smoothing, align_corners = 0.1 * (seed // 2 % 2), bool(seed % 2)

    plain = logits.float().requires_grad_()
    full = F.interpolate(plain, target.shape[1:], mode="bilinear", align_corners=align_corners)
    expected = F.cross_entropy(full, target, weight, None, 255, None, "none", smoothing)
    expected.backward(grad)

    options = (align_corners, weight, 255, smoothing, False)
    torch.testing.assert_close(triton_loss.forward(logits, target, *options), expected, rtol=1e-5, atol=1e-5)
    found = triton_loss.backward(grad, logits, target, *options)
    torch.testing.assert_close(found, plain.grad.to(dtype), rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5)


@pytest.mark.parametrize(("classes", "weighted"), [(1, True), (3, False)])
def test_value_and_gradient_of_a_sigmoid_are_those_of_the_tiles(classes: int, weighted: bool) -> None:
    draw = torch.Generator().manual_seed(classes)
    logits = 9 * torch.randn(1, classes, 2, 3, generator=draw).to(DEVICE)
    target = torch.randint(-1, max(classes, 2), (1, 1, 4, 7) if classes == 1 else (1, 4, 7), generator=draw).to(DEVICE)
    target[..., 0] = 255
    weight = torch.rand(2, classes, generator=draw).to(DEVICE) if weighted else None
    options, grad = (False, weight, 255, 0.0, True), torch.randn(1, 4, 7, generator=draw).to(DEVICE)
    torch.testing.assert_close(
        triton_loss.forward(logits, target, *options), upsampled.tiled(logits, target, *options), rtol=1e-5, atol=1e-5
    )
    found = triton_loss.backward(grad, logits, target, *options)
    expected = upsampled.tiled_backward(grad, logits, target, *options)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_label_that_is_no_class_gives_no_number(sigmoid: bool) -> None:
    logits, target = torch.zeros(1, 3, 1, 1, device=DEVICE), torch.tensor([[[2, 3], [255, -1]]], device=DEVICE)
    loss = triton_loss.forward(logits, target, False, None, 255, 0.0, sigmoid)
    assert torch.isnan(loss).tolist() == [[[False, True], [False, not sigmoid]]]


@pytest.mark.parametrize(
    ("logits", "target", "sigmoid"),
    [
        (torch.randn(1, 2, 2, 3).double(), torch.ones(1, 4, 5, dtype=torch.long), False),
        (torch.randn(1, 1025, 1, 2), torch.ones(1, 4, 5, dtype=torch.long), False),
        (torch.randn(1, 2, 2, 3), torch.ones(1, 2, 4, 5, dtype=torch.long), True),
        (torch.randn(1, 1, 2, 3), torch.rand(1, 4, 5), True),
    ],
    ids=["float64", "many classes", "labels of each class", "probabilities"],
)
def test_unsupported_inputs_are_processed_in_tiles(logits: Tensor, target: Tensor, sigmoid: bool) -> None:
    logits, target = logits.to(DEVICE), target.to(DEVICE)
    options, grad = (False, None, 255, 0.0, sigmoid), torch.ones(1, 4, 5, device=DEVICE, dtype=logits.dtype)
    assert torch.equal(triton_loss.forward(logits, target, *options), upsampled.tiled(logits, target, *options))
    found = triton_loss.backward(grad, logits, target, *options)
    assert torch.equal(found, upsampled.tiled_backward(grad, logits, target, *options))


def test_kernels_that_differ_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_loss.compare(DEVICE)
    monkeypatch.setattr(triton_loss, "_with_next", lambda own, after, axis: own)
    with pytest.raises(RuntimeError, match=r"the Triton kernels' gradient is off by .*e.* on"):
        triton_loss.compare(DEVICE)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="there is no GPU")
def test_the_loss_is_computed_by_them_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_loss.register(DEVICE)
    monkeypatch.setattr(upsampled, "SWITCH", "1")
    logits = torch.randn(2, 19, 8, 8, device=DEVICE, requires_grad=True)
    target = torch.randint(0, 19, (2, 32, 32), device=DEVICE)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    upsample_cross_entropy(logits, target).sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 2 * 19 * 32 * 32 * 4  # less than the enlarged logits
