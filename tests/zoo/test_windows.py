"""Sliding windows of families on data whose crops are smaller than those they were published with."""

from __future__ import annotations

import pytest

from segkernel.config import load_config
from segkernel.inference import check_views


@pytest.mark.parametrize("data", ["streetscenes", "drive-64x64", "cityscapes-512x1024"])
@pytest.mark.parametrize(
    "model", ["segformer_mit-b2", "convnext-tiny_upernet", "segmenter_vit-s_mask", "setr_vit-l_mla", "mae-base_upernet"]
)
def test_windows_of_a_composed_config_leave_no_pixel_out(model: str, data: str) -> None:
    config = load_config(f"{model}_4xb2-20k_{data}")
    windows = config["model"]["test_cfg"]
    check_views(windows)
    assert windows["crop_size"] == config["data"]["crop_size"] == windows["stride"]
