"""Hierarchical transformers against transformers and timm: Swin V2, Hiera, and the encoders of SAM and SAM 2."""

from __future__ import annotations

import re
from collections.abc import Callable

import newmodels
import pytest
import torch
from torch import Tensor, nn

from segkernel.interfaces.model import Backbone
from segkernel.nn import nlc_to_nchw
from segkernel.weights import convert
from segplug_backbones import Hiera, SAM2Hiera, SwinTransformerV2, ViTSAM
from segplug_heads import SAM2FPN
from segplug_heads.parts.query_transformer import SinePositionalEncoding

BUILDERS: dict[str, Callable[[], Backbone]] = {
    "hiera_tiny_hf": lambda: Hiera("tiny", unroll=False),
    "sam2_hiera_small_timm": lambda: SAM2Hiera("small"),
    "sam2_hiera_tiny_timm": lambda: SAM2Hiera("tiny"),
    "sam_vit_b_256_hf": lambda: ViTSAM("base", img_size=256),
    "sam_vit_small6_hf": lambda: ViTSAM(
        {
            "embed_dims": 192,
            "num_layers": 6,
            "num_heads": 3,
            "feedforward_channels": 768,
            "global_attn_indexes": (2, 5),
        },
        img_size=256,
        window_size=7,
    ),
    "swinv2_tiny_w8_hf": lambda: SwinTransformerV2("tiny", out_norm=False),
    "swinv2_tiny_window8_256_timm": lambda: SwinTransformerV2("tiny", out_norm=False, pad_small_map=False),
}


LARGE = ("sam2_hiera_small_timm", "sam_vit_b_256_hf")
"""Cases that smaller ones of their family stand for in the quick set."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in BUILDERS]
)
def test_encoder_equals_the_reference(name: str) -> None:
    case = newmodels.load(name)
    model = case.load_into(BUILDERS[name]())
    assert case.failures(case.named(model(case.images)), model=model) == []


class SAM2Encoder(nn.Module):
    """The parts of SAM 2 that a segmentor takes, by the names that they have in one."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SAM2Hiera("tiny")
        self.neck = SAM2FPN(self.backbone.channels)
        self.positions = SinePositionalEncoding(128, normalize=True)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(images)
        maps = self.neck(features)
        positions = [nlc_to_nchw(self.positions(x), (x.shape[2], x.shape[3])).expand_as(x) for x in maps]
        return *maps, features[-1], *positions


def test_encoder_and_neck_of_sam2_equal_transformers() -> None:
    case = newmodels.load("sam2_hiera_tiny_hf")
    model = case.load_into(SAM2Encoder())
    assert case.failures(case.named(model(case.images)), model=model) == []


@pytest.mark.parametrize(
    ("encoder", "trunk", "conv"), [("vision_encoder", "backbone", ""), ("image_encoder", "trunk", ".conv")]
)
def test_names_of_the_whole_sam2_fit(encoder: str, trunk: str, conv: str) -> None:
    model = SAM2Encoder()
    weights = newmodels.load("sam2_hiera_tiny_hf").weights
    theirs = {re.sub(r"^backbone", f"{encoder}.{trunk}", key): value for key, value in weights.items()}
    theirs = {re.sub(r"^(neck.convs.\d)", rf"{encoder}.\1{conv}", key): value for key, value in theirs.items()}
    if trunk == "trunk":
        names = {"layer_norm": "norm", "mlp.proj_in": "mlp.layers.0", "mlp.proj_out": "mlp.layers.1"}
        for old, new in {**names, "patch_embed.projection": "patch_embed.proj"}.items():
            theirs = {key.replace(old, new): value for key, value in theirs.items()}
    converted = convert(model, {**theirs, "mask_decoder.weight": torch.zeros(1)}).weights
    assert all(torch.equal(converted[key], value) for key, value in convert(model, weights).weights.items())
    assert model.state_dict().keys() <= converted.keys()
