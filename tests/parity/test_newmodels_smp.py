"""Models of segmentation_models_pytorch: its arguments and weights give its logits here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import newmodels
import pytest
import torch

from segkernel import Predictor
from segkernel.building import build
from segkernel.weights import convert
from segplug_heads.hugging_face.smp import data, segmentor

QUICK = ("unet_resnet18_scse_smp", "fpn_mit_b0_smp", "unet_efficientnet_b0_smp", "pspnet_resnet34_smp")
CASES = sorted(path.stem for path in newmodels.PACKED.glob("*_smp.npz"))
LIVE = [
    ("Unet", {"encoder_name": "vgg11_bn", "decoder_interpolation": "bilinear", "in_channels": 4}),
    ("Unet", {"encoder_name": "mobilenet_v2", "encoder_depth": 4, "decoder_channels": [64, 32, 16, 16]}),
    ("Unet", {"encoder_name": "efficientnet-b1", "decoder_use_norm": {"type": "instancenorm", "affine": True}}),
    ("UnetPlusPlus", {"encoder_name": "timm-efficientnet-b0", "decoder_attention_type": "scse"}),
    ("MAnet", {"encoder_name": "resnet18", "encoder_depth": 3, "decoder_channels": [64, 32, 16]}),
    ("Linknet", {"encoder_name": "resnext50_32x4d", "classes": 1, "decoder_use_norm": False}),
    ("FPN", {"encoder_name": "resnet18", "encoder_depth": 4, "decoder_merge_policy": "cat", "upsampling": 2}),
    ("PAN", {"encoder_name": "mit_b0", "decoder_interpolation": "nearest"}),
    ("DeepLabV3", {"encoder_name": "mobilenet_v2", "encoder_output_stride": 16, "decoder_aspp_separable": True}),
    ("DeepLabV3Plus", {"encoder_name": "efficientnet-b2", "aux_params": {"classes": 4, "pooling": "max"}}),
    ("PSPNet", {"encoder_name": "vgg11", "decoder_use_norm": False}),
    ("UPerNet", {"encoder_name": "resnet18", "decoder_channels": 64, "decoder_use_norm": False}),
    ("Segformer", {"encoder_name": "mobilenet_v2", "decoder_segmentation_channels": 64}),
]


def model_of(arguments: dict[str, Any]) -> Any:
    """Return our model of arguments in ``config.json``."""
    section = data(arguments)
    model = segmentor(arguments)
    for part in ("decode_head", "auxiliary_head"):
        if model.get(part, {}).get("num_classes") == "${data.num_classes}":
            model[part]["num_classes"] = max(2, arguments.get("classes", 1))
    return build("segmentors", model, ambient={"task": section["task"]} if "task" in section else {})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CASES]
)
def test_logits_losses_and_gradients_are_the_references(name: str) -> None:
    case = newmodels.load(name)
    build = case.facts["build"]
    model = case.load_into(model_of({"_model_class": build["cls"].rpartition(".")[2], **build["kwargs"]}))
    logits = model(case.images)
    assert case.failures({"logits": logits}, model=model) == []


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("segmentation_models_pytorch"), reason="the reference is not installed"
)
@pytest.mark.parametrize(("name", "arguments"), LIVE, ids=[f"{name}-{each['encoder_name']}" for name, each in LIVE])
@torch.no_grad()
def test_other_arguments_are_the_references(name: str, arguments: dict[str, Any]) -> None:
    smp: Any = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    reference = getattr(smp, name)(**{"encoder_weights": None, "classes": 5, **arguments}).eval()
    model = model_of({"_model_class": name, "classes": 5, **arguments}).eval()
    model.load_state_dict(convert(model, reference.state_dict()).weights, strict=True)
    images = torch.randn(2, arguments.get("in_channels", 3), 128, 160)
    expected, ours = reference(images), model(images)
    if "aux_params" in arguments:
        expected, labels = expected
        torch.testing.assert_close(model.auxiliary_head(model.extract_feat(images)).flatten(1), labels)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


def test_a_saved_folder_is_a_model(tmp_path: Path) -> None:
    case = newmodels.load("fpn_mit_b0_smp")
    config = {"_model_class": "FPN", **case.facts["build"]["kwargs"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pytest.importorskip("safetensors.torch").save_file(case.weights, tmp_path / "model.safetensors")
    predictor = Predictor(tmp_path)
    assert list(predictor.classes) == [f"LABEL_{i}" for i in range(7)]
    with torch.no_grad():
        assert case.failures({"logits": predictor.model(case.images)}) == []


def test_encoders_that_are_not_here_are_listed() -> None:
    with pytest.raises(Exception, match="'densenet121' is not supported"):
        segmentor({"_model_class": "Unet", "encoder_name": "densenet121"})
