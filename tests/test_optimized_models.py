"""Zoo models that `optimize_for_inference` made faster: the same logits, and the same classes but for near ties."""

from __future__ import annotations

import pytest
import torch

from segkernel.config import load_config
from segkernel.loading import make_model
from segplug_deploy import optimize_for_inference
from segplug_deploy.winograd import WinogradConv2d

NAMES = {
    "fast_scnn_8xb4-160k_cityscapes-512x1024": 1,  # its number of convolutions by Winograd's algorithm
    "bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024": 14,
    "segformer_mit-b0_8xb2-160k_ade20k-512x512": 0,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_faster_model_has_the_same_logits_and_classes(name: str) -> None:
    torch.manual_seed(0)
    model = make_model(load_config(name), pretrained=False).eval()
    faster = optimize_for_inference(model)
    images = torch.randn(1, 3, 512, 512)
    with torch.inference_mode():
        wanted, logits = (each.predict(images)["seg"] for each in (model, faster))
    largest = float(wanted.abs().max())
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-4 * largest)
    best, second = wanted.topk(2, dim=1).values.unbind(1)
    assert float((best - second)[logits.argmax(1) != wanted.argmax(1)].sum()) <= 1e-4 * largest
    used = [each for each in faster.modules() if isinstance(each, WinogradConv2d) and each.transformed]
    assert len(used) == NAMES[name]
