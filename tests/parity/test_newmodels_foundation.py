"""Foundation backbones against transformers and timm: DINOv2, DINOv3, ConvNeXt V2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import newmodels
import pytest
import torch
from torch import nn

from segplug_backbones import ConvNeXt, DINOv2, DINOv3

VIT: dict[str, Any] = {"out_indices": (2, 5, 8, 11)}
SMALL_IMAGE: dict[str, Any] = {**VIT, "img_size": (140, 182), "interpolate_antialias": True}
V2: dict[str, Any] = {
    "use_grn": True, "layer_scale_init_value": 0.0, "out_indices": (0, 1, 2, 3), "gap_before_final_norm": False
}  # fmt: skip
CASES: dict[str, Callable[[], nn.Module]] = {
    "convnextv2_atto_hf": lambda: ConvNeXt("atto", **V2),
    "convnextv2_tiny_hf": lambda: ConvNeXt("tiny", **V2),
    "convnextv2_atto_timm": lambda: ConvNeXt("atto", **V2, out_norm=False),
    "convnextv2_pico_timm": lambda: ConvNeXt("pico", **V2, out_norm=False, linear_pw_conv=False),
    "dinov3_convnext_tiny_hf": lambda: ConvNeXt(
        "tiny", out_indices=(0, 1, 2, 3), gap_before_final_norm=False, out_norm=False
    ),
    "dinov2_small_hf": lambda: DINOv2("small", **VIT),
    "dinov2_reg4_small_hf": lambda: DINOv2("small", num_register_tokens=4, **VIT),
    "vit_small_patch14_dinov2_timm": lambda: DINOv2("small", **SMALL_IMAGE),
    "vit_small_patch14_reg4_dinov2_timm": lambda: DINOv2("small", num_register_tokens=4, **SMALL_IMAGE),
    "dinov3_vits16_hf": lambda: DINOv3("small", **VIT),
    "vit_small_patch16_dinov3_timm": lambda: DINOv3("small", qv_bias=False, **VIT),
}
QUICK = ("convnextv2_atto_hf", "dinov2_reg4_small_hf", "dinov3_vits16_hf")
RUNS = [
    pytest.param(name, from_file, marks=() if name in QUICK and from_file else pytest.mark.slow)
    for name in CASES
    for from_file in (False, True)
]


@pytest.mark.parametrize(("name", "from_file"), RUNS)
def test_maps_and_gradients_are_those_of_the_reference(name: str, from_file: bool) -> None:
    case = newmodels.load(name)
    model = case.load_into(CASES[name](), from_file)
    outputs = dict(zip(case.outputs, model(case.images), strict=True))
    assert case.failures(outputs, model=model) == []


@pytest.mark.parametrize("name", CASES)
def test_norms_and_activations_are_those_of_the_reference(name: str) -> None:
    facts = newmodels.load(name).facts
    with torch.device("meta"):
        modules = list(CASES[name]().modules())
    expected = {}
    for kind, found in facts["norms"].items():
        what, eps = kind.split(" eps ")
        if what != "GlobalResponseNorm":
            expected[float(eps)] = expected.get(float(eps), 0) + found["count"]
    norms = [module.eps for module in modules if isinstance(module, nn.LayerNorm) or type(module).__name__ == "LN2d"]
    assert {eps: norms.count(eps) for eps in {*norms}} == expected
    gelu = [module for module in modules if isinstance(module, nn.GELU)]
    assert len(gelu) == sum(facts["activations"].values())
    assert {module.approximate for module in gelu} == {"none"}
