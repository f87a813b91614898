"""`TIMMBackbone` on twenty models of timm, each of another family; needs timm, which needs torchvision."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from segkernel.errors import UsageError
from segplug_backbones import TIMMBackbone
from segplug_backbones.adapters import LoRA

pytestmark = pytest.mark.slow
MODELS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "regnety_002": {},
    "efficientnet_b0": {},
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small": {},
    "densenet121": {},
    "vgg11_bn": {},
    "hrnet_w18_small": {},
    "convnextv2_atto": {},
    "repvit_m0_9": {},
    "fastvit_t8": {},
    "edgenext_xx_small": {},
    "efficientvit_b0": {},
    "mobilevit_xxs": {},
    "pvt_v2_b0": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": [2, 2, 1, 1]},
    "swinv2_tiny_window8_256": {"embed_dim": 24, "depths": [2, 2, 1, 1]},
    "vit_tiny_patch16_224": {"depth": 3},
    "vit_small_patch14_dinov2": {"depth": 3, "img_size": 56},
    "eva02_tiny_patch14_224": {"depth": 3},
}
"""Names to options; transformers are built shallow. Swin and Swin V2 return maps (N, H, W, C)."""
VITS = ("vit_tiny_patch16_224", "vit_small_patch14_dinov2", "eva02_tiny_patch14_224")
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def timm() -> Any:
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision is built for another torch
        pytest.skip(f"timm cannot be imported: {error}")


def build(name: str, **more: Any) -> TIMMBackbone:
    return TIMMBackbone(name, pretrained=False, options=MODELS[name], **more).eval()


def shapes(backbone: TIMMBackbone, height: int, width: int) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(m.shape) for m in backbone(torch.rand(1, 3, height, width))]


@every_model
@pytest.mark.parametrize("size", [(224, 224), (161, 225)], ids=str)
def test_maps_are_as_declared(name: str, size: tuple[int, int]) -> None:
    backbone = build(name)
    if name.startswith("hrnet") and size[0] % 32:  # its branches only fit each other in multiples of their strides
        with pytest.raises(UsageError, match="multiples of 32"):
            shapes(backbone, *size)
        return
    maps = shapes(backbone, *size)
    assert [m[1] for m in maps] == list(backbone.channels)
    for found, stride in zip(maps, backbone.strides, strict=True):
        for length, side in zip(found[2:], size):
            assert side // stride <= length <= -(-side // stride)  # families differ in how they round


@every_model
def test_maps_can_be_chosen_and_parameters_get_gradients(name: str) -> None:
    everything = build(name)
    some = build(name, out_indices=(0, len(everything.channels) - 1), in_channels=4)
    assert some.channels == (everything.channels[0], everything.channels[-1])
    assert some.strides == (everything.strides[0], everything.strides[-1])
    sum(m.square().mean() for m in some.train()(torch.rand(2, 4, 128, 128))).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in some.parameters())


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("swin")])
def test_maps_of_windows_are_turned(name: str, timm: Any) -> None:
    torch.manual_seed(0)
    ours = build(name)
    theirs = timm.create_model(name, features_only=True, **MODELS[name]).eval()
    theirs.load_state_dict(ours.timm_model.state_dict(), strict=False)
    images = torch.rand(1, 3, *([256] * 2 if "256" in name else [224] * 2))
    with torch.no_grad():
        for own, their in zip(ours(images), theirs(images), strict=True):
            torch.testing.assert_close(own, their.permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", VITS)
def test_positions_are_resized_to_any_image(name: str) -> None:
    backbone = build(name)
    patch = backbone.strides[0]
    for size in ((patch * 3, patch * 7), (patch * 9 + 5, patch * 4)):
        assert shapes(backbone, *size)[0][2:] == tuple(-(-side // patch) for side in size)


@pytest.mark.parametrize("name", [*VITS, "swin_tiny_patch4_window7_224"])
def test_transformers_are_adapted(name: str) -> None:
    backbone = build(name, adapt=LoRA(rank=2))
    trained = [n for n, p in backbone.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in n for n in trained)
    assert not any(type(m) is nn.Linear and ".attn." in n for n, m in backbone.named_modules() if "norm" not in n)
