"""Recipes that MMSegmentation never had have as many parameters as their authors say."""

from __future__ import annotations

import pytest
import torch

from segkernel.config import load_config
from segkernel.loading import make_model

MILLIONS = {
    "cgrseg-t_4xb4-160k_ade20k-512x512": 9,
    "cgrseg-l_4xb4-160k_ade20k-512x512": 36,
    "efficientvit-seg-b1_8xb2-160k_cityscapes-1024x1024": 5,
    "efficientvit-seg-b2_8xb2-160k_ade20k-512x512": 15,
    "efficientvit-seg-b3_8xb2-160k_cityscapes-1024x1024": 40,
    "efficientvit-seg-l1_8xb2-160k_ade20k-512x512": 40,
    "efficientvit-seg-l2_8xb2-160k_cityscapes-1024x1024": 53,
    "efficientvit-seg-l2_8xb2-160k_ade20k-512x512": 51,
    "eomt-s_dinov2_4xb4-31e_ade20k-512x512": 24,
    "eomt-b_dinov2_4xb4-31e_ade20k-512x512": 93,
    "eomt-l_dinov2_4xb4-31e_ade20k-512x512": 316,
    "eomt-l_dinov2_4xb4-107e_cityscapes-1024x1024": 319,
    "oneformer_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640": 219,
    "oneformer_convnext-l-in22k-384x384-pre_8xb2-90k_cityscapes-512x1024": 220,
    "oneformer_convnext-xl-in22k-384x384-pre_8xb2-160k_ade20k-640x640": 372,
}
"""Millions of parameters for inference, as published."""
TRAINING_ONLY = ("text_encoder.", "loss_contrastive.")


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    with torch.device("meta"):
        model = make_model(load_config(name), pretrained=False)
    sizes = {key: each.numel() for key, each in model.named_parameters() if not any(p in key for p in TRAINING_ONLY)}
    assert round(sum(sizes.values()) / 1e6) == MILLIONS[name]
