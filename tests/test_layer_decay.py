"""Layer-wise decay of the learning rate on foundation backbones: of everything, of LoRA, and of what is not frozen."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from segkernel.building import build
from segkernel.interfaces.model import Backbone
from segplug_backbones import EVA02, ConvNeXt, DINOv2, DINOv3, LoRA
from segplug_training import Paramwise

PLAIN: Any = {"embed_dims": 16, "num_layers": 2, "num_heads": 2, "feedforward_channels": 24}
DECAY: Any = {"rate": 0.5, "num_layers": 2}


def rates(backbone: Backbone, **decay: Any) -> dict[str, float]:
    """Return the learning rate of each trained parameter, for a base rate of 1."""
    head = {"type": "FCNHead", "in_channels": backbone.channels[-1], "channels": 4, "num_classes": 3}
    model: nn.Module = build("segmentors", {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = Paramwise(layer_decay={**DECAY, **decay})(model, 1.0, 0.05)
    return {names[id(each)].removeprefix("backbone."): group["lr"] for group in groups for each in group["params"]}


@pytest.mark.parametrize("kind", [DINOv2, DINOv3, EVA02])
def test_blocks_of_plain_transformers_are_layers(kind: Any) -> None:
    found = rates(kind(PLAIN, final_norm=True))
    expected = {"cls_token": 0.125, "patch_embed.proj.weight": 0.125, "blocks.0.attn.qkv.weight": 0.25,
                "blocks.1.norm2.bias": 0.5, "norm.weight": 1.0, "decode_head.conv_seg.weight": 1.0}  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_adapters_decay_with_their_layer_and_frozen_parameters_are_in_no_group() -> None:
    adapted = rates(DINOv2(PLAIN, adapt=LoRA(rank=2)))
    assert adapted["blocks.0.attn.qkv.lora_A"] == 0.25
    assert not any("qkv.weight" in name for name in adapted)
    frozen = rates(DINOv3(PLAIN, frozen_stages=1))
    assert {name.split(".")[1] for name in frozen if name.startswith("blocks.")} == {"1"}


def test_stages_of_convnext_v2_are_layers() -> None:
    arch: Any = {"depths": [1, 1, 2, 1], "channels": [4, 4, 8, 8]}
    backbone = ConvNeXt(arch, use_grn=True, out_indices=(0, 1, 2, 3), gap_before_final_norm=False, out_norm=False)
    found = rates(backbone, num_layers=4, stage_wise=True)
    assert found["stages.0.0.grn.gamma"] == 0.5**4
    assert found["stages.3.0.grn.gamma"] == 0.5
