"""Networks for mobile devices against timm; EfficientViT-Seg, CGRSeg and U-MixFormer against their authors' code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import newmodels
import pytest
from torch import nn

from segkernel import build
from segkernel.interfaces.model import Backbone
from segplug_backbones import (
    EdgeNeXt,
    EfficientFormerV2,
    EfficientViT,
    FastViT,
    MobileNetV4,
    MobileOne,
    RepViT,
    StarNet,
)

ALL = (0, 1, 2, 3, 4)
BUILDERS: dict[str, Callable[[], Backbone]] = {
    "mobilenetv4_conv_small_timm": lambda: MobileNetV4("conv_small", out_indices=ALL),
    "mobilenetv4_hybrid_medium_timm": lambda: MobileNetV4("hybrid_medium", out_indices=ALL),
    "repvit_m0_9_timm": lambda: RepViT("m0_9"),
    "fastvit_t8_timm": lambda: FastViT("t8"),
    "mobileone_s0_timm": lambda: MobileOne("s0", out_indices=ALL),
    "edgenext_x_small_timm": lambda: EdgeNeXt("x_small"),
    "starnet_s1_timm": lambda: StarNet("s1"),
    "efficientformerv2_s0_timm": lambda: EfficientFormerV2("s0"),
    "efficientvit_b0_timm": lambda: EfficientViT("b0"),
    "efficientvit_b1_timm": lambda: EfficientViT("b1"),
}


PLAIN = ("efficientformerv2_s0_timm", "efficientvit_b0_timm", "efficientvit_b1_timm")
"""Cases with the names of the plain model, which has no flat ones; those of the others are ours."""


@pytest.mark.parametrize("name", BUILDERS)
def test_encoder_equals_the_reference(name: str) -> None:
    case = newmodels.load(name)
    model = case.load_into(BUILDERS[name]())
    assert case.failures(case.named(model(case.images)), model=model) == []


@pytest.mark.parametrize("name", PLAIN)
def test_names_of_the_plain_model_are_ours(name: str) -> None:
    case = newmodels.load(name)
    assert case.file().keys() == BUILDERS[name]().state_dict().keys()


def segmentor(backbone: dict[str, Any], head: dict[str, Any]) -> nn.Module:
    return build("segmentors", {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head})


def efficientvit(arch: str, widths: list[int], classes: int, **head: Any) -> nn.Module:
    # The figures are of the model as its authors build it; the eps of l1 and l2 changes when weights are loaded.
    norm_cfg = {"type": "BN", "eps": 1e-5}
    common = {"act_cfg": {"type": "HSwish"}, "dropout_ratio": 0, "norm_cfg": norm_cfg}
    return segmentor(
        {
            "type": "EfficientViT",
            "arch": arch,
            "out_indices": [1, 2, 3],
            "norm_cfg": norm_cfg,
            "attention_eps": 1e-15,
        },
        {
            "type": "EfficientViTSegHead",
            "in_channels": widths,
            "in_index": [0, 1, 2],
            "num_classes": classes,
            **common,
            **head,
        },
    )


def cgrseg() -> nn.Module:
    return segmentor(
        {"type": "EfficientFormerV2", "arch": "s1", "img_size": 512},
        {
            "type": "CGRSegHead",
            "in_channels": [48, 120, 224],
            "in_index": [1, 2, 3],
            "channels": 128,
            "num_classes": 19,
            "norm_cfg": {"type": "BN"},
        },
    )


def umixformer() -> nn.Module:
    return segmentor(
        {"type": "MixVisionTransformer", "embed_dims": 32, "num_layers": [2, 2, 2, 2], "num_heads": [1, 2, 5, 8]},
        {
            "type": "UMixFormerHead",
            "in_channels": [32, 64, 160, 256],
            "in_index": [0, 1, 2, 3],
            "channels": 128,
            "num_classes": 19,
            "norm_cfg": {"type": "BN"},
        },
    )


WHOLE: dict[str, Callable[[], nn.Module]] = {
    "efficientvit_seg_b0_cityscapes": lambda: efficientvit(
        "b0", [32, 64, 128], 19, channels=32, depth=1, final_expand=4
    ),
    "efficientvit_seg_b1_ade20k": lambda: efficientvit("b1", [64, 128, 256], 150, channels=64),
    "cgrseg_t": cgrseg,
    "umixformer_mit_b0": umixformer,
}


@pytest.mark.parametrize("name", WHOLE)
def test_segmentation_model_equals_the_reference(name: str) -> None:
    case = newmodels.load(name)
    model = case.load_into(WHOLE[name]())
    assert case.failures({"logits": model(case.images)}, model=model) == []
