"""Triton's kernel for class ids of upsampled logits; in Triton's interpreter without a GPU."""

from __future__ import annotations

import random
import sys

import pytest
import torch
from torch.nn.functional import interpolate

from segplug_deploy.labels import _triton_kernel, resized_argmax

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def triton_labels():
    pytest.importorskip("triton", "3.2", reason="needs Triton 3.2, whose interpreter knows constants")
    from segplug_deploy import triton_labels

    return triton_labels


def test_labels_are_those_of_interpolate_and_argmax_up_to_rounding(triton_labels) -> None:
    rng, draw = random.Random(0), torch.Generator().manual_seed(0)
    for align_corners in (False, True, False, True):
        classes, height, width = rng.choice((1, 2, 19, 150)), rng.randint(1, 5), rng.randint(1, 6)
        size = rng.randint(1, 20), rng.randint(1, 20)
        kept = (size[0] + 1) // 2, size[1]
        logits = torch.randn(2, classes, height, width, generator=draw).to(DEVICE).mT.contiguous().mT
        large = interpolate(logits, size, mode="bilinear", align_corners=align_corners)[..., : kept[0], :]
        labels = triton_labels.upsampled_argmax(logits, size, kept, align_corners, torch.uint8)
        assert labels.shape == (2, *kept)
        missing = large.amax(1) - large.gather(1, labels.long()[:, None])[:, 0]
        assert missing.max() < 1e-5


def test_the_first_of_equal_classes_is_chosen(triton_labels) -> None:
    logits = torch.randn(1, 21, 5, 6, generator=torch.Generator().manual_seed(1)).round().to(DEVICE)
    wanted = interpolate(logits, (10, 12), mode="bilinear").argmax(1)  # a factor of two is free of rounding errors
    found = triton_labels.upsampled_argmax(logits, (10, 12), (10, 12), False, torch.int64)
    assert torch.equal(found, wanted)


def test_a_kernel_with_other_results_is_refused(triton_labels, monkeypatch: pytest.MonkeyPatch) -> None:
    triton_labels.compare(DEVICE)
    wrong = lambda logits, size, kept, *_: torch.zeros((len(logits), *kept), dtype=torch.uint8, device=DEVICE)  # noqa: E731
    monkeypatch.setattr(triton_labels, "upsampled_argmax", wrong)
    with pytest.raises(RuntimeError, match="labels of the Triton kernel are off by"):
        triton_labels.compare(DEVICE)


def test_without_triton_torch_computes_the_labels(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "segplug_deploy.triton_labels", None)
    monkeypatch.delattr("segplug_deploy.triton_labels", raising=False)
    assert _triton_kernel.__wrapped__(DEVICE) is None
    assert "no Triton kernel for labels" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_labels_on_a_gpu_are_those_of_torch() -> None:
    logits = torch.randn(2, 150, 64, 64, generator=torch.Generator().manual_seed(2)).cuda()
    for value in (0.0, float("nan")):
        logits[0, 3, 4, 5] += value
        wanted = interpolate(logits, (512, 512), mode="bilinear").argmax(1)
        found = resized_argmax(logits, [((512, 512), (512, 512))] * 2)
        assert (found == wanted).float().mean() > 0.99999
