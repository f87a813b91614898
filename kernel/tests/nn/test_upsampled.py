"""Cross-entropy and the best classes of upsampled logits in tiles of rows, against those without tiles."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import library
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from segkernel.nn import CrossEntropyLoss, DecodeHead, OHEMPixelSampler, accuracy, upsample_cross_entropy, upsampled
from segkernel.nn.losses import binary_accuracy


def use_tiny_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the smallest logits in tiles of a few rows."""
    monkeypatch.setattr(upsampled, "SWITCH", "1")
    monkeypatch.setitem(upsampled._TILE, "cpu", 10_000)
    monkeypatch.setattr(upsampled, "_LEAST_ROWS", 1)


@pytest.fixture
def tiny_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_tiles(monkeypatch)


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
def test_the_best_classes_equal_those_without_tiles(seed):
    logits, target, options = random_case(seed)
    size, align_corners = target.shape[1:], options["align_corners"]
    full = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    for k in {1, min(3, logits.shape[1])}:
        values, _ = full.topk(k, 1)
        labels = upsampled.upsample_topk(logits, size, k, None, align_corners)
        assert torch.equal(full.gather(1, labels), values)
        labels = upsampled.upsample_topk(logits, size, k, 0.5, align_corners)
        assert torch.equal(labels >= 0, values > 0.5)


def test_losses_accuracies_and_hard_pixels_are_the_same_in_tiles(monkeypatch):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 6, 9, 11), torch.randint(0, 6, (2, 40, 50))
    target[:, :9] = 255
    each = torch.randint(0, 2, (2, 6, 40, 50))
    loss = CrossEntropyLoss(class_weight=[1, 2, 3, 4, 5, 6], avg_non_ignore=True, label_smoothing=0.1)
    losses = [loss, CrossEntropyLoss(use_sigmoid=True)]

    def found():
        weights = [OHEMPixelSampler(thresh, min_kept=100).sample(logits, target, losses, 255) for thresh in (0.3, None)]
        accuracies = accuracy(logits, target, (1, 2), 0.7, ignore_index=255), binary_accuracy(logits, each, 0.6)
        return [*weights, loss(logits, target, weight=weights[0]), *accuracies]

    expected = found()
    use_tiny_tiles(monkeypatch)
    torch.testing.assert_close(found(), expected)
    monkeypatch.setattr(upsampled, "SWITCH", "0")
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
    use_tiny_tiles(monkeypatch)
    torch.testing.assert_close(found(), expected)


@pytest.mark.usefixtures("tiny_tiles")
@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_operators_can_be_compiled(sigmoid):
    logits, target, options = random_case(9)
    weight = torch.rand(2, logits.shape[1]).double() if sigmoid else options["class_weight"]
    arguments = (logits.requires_grad_(), target, True, weight, 255, 0.0 if sigmoid else 0.1, sigmoid)
    library.opcheck(upsampled.OPERATOR, arguments)
    library.opcheck(upsampled.TOPK, (logits.detach(), target.shape[1:], False, 2, 0.1))


@pytest.mark.usefixtures("tiny_tiles")
@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_a_head_compiles_to_one_graph_under_autocast(task):
    torch.manual_seed(0)
    head = DecodeHead(4, 4, num_classes=2, task=task, dropout_ratio=0)
    x, target = torch.randn(2, 4, 8, 8), torch.randint(0, 2, (2, 32, 32))

    def losses(x, target):
        with torch.autocast("cpu", torch.bfloat16):
            return head.loss_by_logits(head.cls_seg(x), target)

    graphs = []
    compiled = torch.compile(losses, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)
    torch.testing.assert_close(compiled(x, target)["loss_ce"], losses(x, target)["loss_ce"])
    used = {getattr(node.target, "__name__", "") for graph in graphs for node in graph.graph.nodes}
    assert any("upsample_cross_entropy" in name for name in used)


def test_the_peak_memory_of_many_classes_is_a_quarter(monkeypatch, tmp_path):
    logits, target = torch.randn(1, 150, 64, 64, requires_grad=True), torch.randint(0, 150, (1, 256, 256))

    def peak(switch):
        monkeypatch.setattr(upsampled, "SWITCH", switch)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            CrossEntropyLoss()(logits, target).backward()
            accuracy(logits, target)
        profiler.export_chrome_trace(str(tmp_path / "trace.json"))
        events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
        return max(np.cumsum([size for _, size in changes]))

    in_full = peak("0")
    assert in_full > 2 * 4 * 150 * 256 * 256  # bytes: the upsampled logits and their log-softmax
    assert peak("1") < in_full / 4
