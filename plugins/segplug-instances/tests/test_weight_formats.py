"""Names of weights: every tensor of a file has a place, or is known not to be needed."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded import RECORDED
from reference_models import of_detectron, of_detectron2, of_torchvision
from torch import Tensor, nn

from segkernel.errors import CheckpointError
from segkernel.interfaces.spec import Spec
from segkernel.weights import load_into
from segplug_instances import RCNN, DetectionFPN, DetectionResNet, MaskHead, MLPBoxHead
from segplug_instances.weight_formats.detectron import DetectronBlobs, DetectronModelPickle, DetectronPyTorch
from segplug_instances.weight_formats.detectron2 import Detectron2
from segplug_instances.weight_formats.torchvision import COCO_IDS, TorchvisionDetector

LIMITS = {"pre_nms": 10, "post_nms": 10}
MODELS = sorted(path.stem for pattern in ("d2_*.json", "tv_*.json") for path in (RECORDED / "models").glob(pattern))
PICKLES = sorted(path.stem for path in (RECORDED / "pkl").glob("e2e_*.json") if not path.stem.endswith(".d2"))
CONVERTED = sorted(path.stem for path in (RECORDED / "pkl").glob("e2e_*.d2.json"))


def facts_of(name: str) -> dict[str, Any]:
    return json.loads((RECORDED / f"{name}.json").read_text("utf-8"))


def empty(shapes: dict[str, Any]) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def with_group_norm(blobs: dict[str, Any]) -> dict[str, Any]:
    """Return the blobs of a mask R-CNN with FPN as Detectron names them with group norm and ``head_conv``."""
    plain = {"rpn", "cls_score", "bbox_pred", "fc6", "fc1000", "conv5_mask", "mask_fcn_logits"}
    found: dict[str, Any] = {}
    for name, shape in blobs.items():
        layer, _, leaf = name.rpartition("_")
        if layer.startswith("fc7") or "_bn" in layer or (layer == "conv1" and leaf == "b"):
            continue
        if not any(part in layer for part in plain):
            layer = layer.replace("_[mask]", "_mask")
            if leaf == "w":
                found |= {f"{layer}_gn_s": shape[:1], f"{layer}_gn_b": shape[:1], f"{layer}_w": shape}
            continue
        found[f"{layer}_{leaf}"] = shape
    for number in range(1, 5):
        found[f"head_conv{number}_w"] = [256, 256, 3, 3]
        found |= {f"head_conv{number}_gn_{leaf}": [256] for leaf in "sb"}
    return found


def assert_fills(format: Any, model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Check that converted weights are those of the model, neither more nor less, in their shapes."""
    assert format.matches(model, weights.keys())
    converted = {key: value.shape for key, value in format.convert(model, weights).items()}
    assert converted == {key: value.shape for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_detectron2_and_torchvision_are_filled(name: str) -> None:
    facts = facts_of(f"models/{name}")
    with torch.device("meta"):
        if name.startswith("tv_"):
            model: Any = of_torchvision(facts["name"], facts["kwargs"])
            assert_fills(TorchvisionDetector(), model, empty(facts["state_dict"]))
        else:
            model = of_detectron2(facts["resolved"])
            extra = {"pixel_mean": [3, 1, 1], "proposal_generator.anchor_generator.cell_anchors.0": [3, 4]}
            assert_fills(Detectron2(), model, empty(facts["state_dict"] | extra))


@pytest.mark.parametrize("name", PICKLES)
def test_models_of_detectron_are_filled(name: str) -> None:
    facts = facts_of(f"pkl/{name}")
    with torch.device("meta"):
        model = of_detectron(name, facts["config"], LIMITS, "detectron")
        momentum = {f"{blob}_momentum": facts["blobs"][blob] for blob in facts["momentum_of"]}
        assert_fills(DetectronBlobs(), model, empty(facts["blobs"] | momentum))
        keys = {key: facts["blobs"][blob] if blob else [1] for key, blob in facts["detectron_pytorch_keys"].items()}
        assert_fills(DetectronPyTorch(), model, empty(keys))


def test_a_model_with_group_norm_is_filled(golden: Any) -> None:
    facts, _ = golden.load("pkl/e2e_mask_rcnn_R-50-FPN_1x")
    with torch.device("meta"):
        model = of_detectron("e2e_mask_rcnn_R-50-FPN_2x_gn", facts["config"], LIMITS, "detectron")
        assert_fills(DetectronBlobs(), model, empty(with_group_norm(facts["blobs"])))


@pytest.mark.parametrize(("groups", "base_width"), [(32, 8), (64, 4)])
def test_resnext_is_filled(golden: Any, groups: int, base_width: int) -> None:
    facts, _ = golden.load("pkl/imagenet")
    blobs = next(case["params"]["blobs"] for case in facts["cases"] if case["name"] == "R-101")
    wider, factor = {}, groups * base_width // 64  # of the layers inside a block
    for name, (out, *rest) in blobs.items():
        if "branch2c_w" in name:
            rest = [factor * rest[0], *rest[1:]]
        if "branch2b_w" in name:
            rest = [factor * rest[0] // groups, *rest[1:]]
        wider[name] = [factor * out if "branch2a" in name or "branch2b" in name else out, *rest]
    with torch.device("meta"):
        body = DetectionResNet(101, groups=groups, base_width=base_width)
        assert_fills(DetectronBlobs(), body, empty(wider))


@pytest.mark.parametrize("name", PICKLES)
def test_detectron_pytorch_names_mean_the_blobs_of_its_table(name: str) -> None:
    table = {key: blob for key, blob in facts_of(f"pkl/{name}")["detectron_pytorch_keys"].items() if blob}
    by_key = {key: _place(DetectronPyTorch().rename(key, {})) for key in table}
    assert by_key == {key: _place(DetectronBlobs().rename(blob, {})) for key, blob in table.items()}


@pytest.mark.parametrize("name", CONVERTED)
def test_detectron2_names_mean_the_blobs_of_its_own_converter(name: str) -> None:
    table = facts_of(f"pkl/{name}")["mapping"]
    by_key = {key: Detectron2().rename(key, {}) for key in table}
    assert by_key == {key: DetectronBlobs().rename(blob, {}) for key, blob in table.items()}


def _place(name: str) -> str:
    return name.replace("box_head.layer4", "backbone.layer4")


@pytest.mark.parametrize("number", [0, 1])
def test_imagenet_blobs_fill_a_body(golden: Any, number: int) -> None:
    case = golden.load("pkl/imagenet")[0]["cases"][number]
    with torch.device("meta"):
        body = DetectionResNet(int(case["name"].removeprefix("R-")), style="caffe")
    assert_fills(DetectronBlobs(), body, empty(case["params"]["blobs"]))


def test_a_pickle_of_python_2_is_read(golden: Any) -> None:
    facts, _ = golden.load("pkl/mini")
    blobs = golden.fill_blobs({name: {"shape": shape} for name, shape in facts["blobs"].items()})
    found = DetectronModelPickle().read(golden.folder / "pkl" / "mini_detectron.pkl")
    assert found.keys() == blobs.keys()
    assert all(torch.equal(found[name], value) for name, value in blobs.items())
    assert "conv1_w" in DetectronModelPickle().read(golden.folder / "pkl" / "mini_imagenet.pkl")


def test_a_body_of_caffe_takes_rgb_after_loading(tmp_path: Path) -> None:
    source, target = DetectionResNet(50, base_channels=8), DetectionResNet(50, base_channels=8)
    torch.save(source.state_dict() | {"fc.weight": torch.zeros(2, 2)}, tmp_path / "resnet50_caffe.pth")
    load_into(target, tmp_path / "resnet50_caffe.pth", "finetune", format="CaffeBody")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(source(images.flip(1)), target(images)):
            assert torch.allclose(one, other, atol=1e-4 * one.abs().max().item())


def test_a_pickle_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": Path("x")}}))
    with pytest.raises(CheckpointError, match="pathlib"):
        DetectronModelPickle().read(path)


def test_a_damaged_pickle_is_one_error(tmp_path: Path) -> None:
    path, whole = tmp_path / "model.pkl", pickle.dumps({"blobs": {"conv1_w": np.zeros((4, 3, 7, 7), np.float32)}})
    for length in range(0, len(whole), 40):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            DetectronModelPickle().read(path)


def small_model(**more: Any) -> RCNN:
    return RCNN(
        DetectionResNet(50, base_channels=8, norm_cfg=more.pop("norm", {"type": "FrozenBN"})),
        DetectionFPN([32, 64, 128, 256], 8),
        box_head=Spec(MLPBoxHead, fc_channels=16),
        mask_head=Spec(MaskHead, num_convs=1, channels=8),
        **more,
    )


def as_torchvision(model: RCNN) -> dict[str, Tensor]:
    """Return the weights of a small model by torchvision's names, with the background first."""
    found = {}
    for name, value in model.state_dict().items():
        head, _, rest = name.partition(".")
        key = {
            "backbone": f"backbone.body.{rest}",
            "neck": f"backbone.fpn.{rest}".replace("lateral_convs", "inner_blocks").replace(
                "fpn_convs", "layer_blocks"
            ),
            "rpn": f"rpn.head.{rest}".replace("convs.0.conv", "conv.0.0"),
            "box_head": f"roi_heads.box_predictor.{rest}".replace("box_predictor.fc", "box_head.fc"),
            "mask_head": f"roi_heads.mask_predictor.{rest}".replace("mask_predictor.convs.0.conv", "mask_head.0.0"),
        }[head]
        key = key.replace(".conv.", ".0.") if "fpn" in key else key
        key = key.replace("fc1", "fc6").replace("fc2", "fc7").replace("upsample", "conv5_mask")
        found[key.replace("mask_logits", "mask_fcn_logits")] = value
    for leaf in ("weight", "bias"):
        scores, boxes = (f"roi_heads.box_predictor.{layer}.{leaf}" for layer in ("cls_score", "bbox_pred"))
        masks = f"roi_heads.mask_predictor.mask_fcn_logits.{leaf}"
        found[scores] = found[scores].roll(1, 0)
        found[boxes] = torch.cat([torch.zeros_like(found[boxes][:4]), found[boxes]])
        found[masks] = torch.cat([torch.zeros_like(found[masks][:1]), found[masks]])
    return found


def test_a_file_of_torchvision_loads_strictly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = small_model(norm={"type": "BN"}, num_classes=4), small_model(norm={"type": "BN"}, num_classes=4)
    torch.save(as_torchvision(source), tmp_path / "model.pth")
    _, report = load_into(target, tmp_path / "model.pth", "strict")
    assert report.format == "TorchvisionDetector"
    for name, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[name]), name


def test_a_model_of_coco_takes_its_80_classes_from_90() -> None:
    source, target = small_model(norm={"type": "BN"}, num_classes=90), small_model(norm={"type": "BN"}, num_classes=80)
    for name, value in source.box_head.named_parameters():
        if name.startswith(("cls_score", "bbox_pred")):
            value.data.copy_(torch.arange(len(value)).reshape(-1, *[1] * (value.ndim - 1)).expand_as(value))
    converted = TorchvisionDetector().convert(target, as_torchvision(source))
    assert converted["box_head.cls_score.bias"].tolist() == [*(id - 1 for id in COCO_IDS), 90]
    assert converted["box_head.bbox_pred.bias"][::4].tolist() == [4 * (id - 1) for id in COCO_IDS]
    assert len(converted["mask_head.mask_logits.bias"]) == 80


def test_published_files_have_batch_norm_without_eps() -> None:
    model = small_model(num_classes=4)
    weights = as_torchvision(model)
    for key in weights:
        if key.endswith("running_var"):
            weights[key] = torch.full_like(weights[key], 1e-6)
    model.load_state_dict(TorchvisionDetector().convert(model, weights))
    x = torch.ones(1, 8, 1, 1)
    assert torch.allclose(model.backbone.bn1(x), 1000 * x, rtol=1e-4)


def test_another_convention_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = small_model(num_classes=4, convention="detectron2")
    with caplog.at_level(logging.WARNING):
        TorchvisionDetector().convert(model, as_torchvision(small_model(num_classes=4)))
    assert "convention: torchvision" in caplog.text


def test_only_the_format_of_a_file_takes_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(as_torchvision(small_model(num_classes=4)), tmp_path / "model.pth")
    with caplog.at_level(logging.WARNING):
        load_into(small_model(num_classes=4), tmp_path / "model.pth", "strict")
    assert "convention" not in caplog.text


def test_what_has_no_place_is_reported(tmp_path: Path) -> None:
    weights = as_torchvision(small_model(num_classes=4)) | {"roi_heads.keypoint_head.0.weight": torch.zeros(1)}
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"not in the model: roi_heads\.keypoint_head\.0\.weight"):
        load_into(small_model(num_classes=4), tmp_path / "model.pth", "strict")


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        ("conv1_gn_s", "backbone.bn1.weight"),
        ("res2_0_branch2a_gn_b", "backbone.layer1.0.bn1.bias"),
        ("res2_0_branch1_gn_s", "backbone.layer1.0.downsample.1.weight"),
        ("fpn_inner_res5_2_sum_gn_s", "neck.lateral_convs.3.bn.weight"),
        ("fpn_inner_res4_22_sum_lateral_gn_b", "neck.lateral_convs.2.bn.bias"),
        ("fpn_res2_2_sum_gn_s", "neck.fpn_convs.0.bn.weight"),
        ("head_conv1_w", "box_head.convs.0.conv.weight"),
        ("head_conv4_gn_s", "box_head.convs.3.bn.weight"),
        ("_mask_fcn2_gn_b", "mask_head.convs.1.bn.bias"),
        ("_[mask]_res5_0_branch2a_w", "mask_head.layer4.0.conv1.weight"),
    ],
)
def test_blobs_of_group_norm_and_of_separate_stages_have_places(blob: str, name: str) -> None:
    assert DetectronBlobs().rename(blob, {}) == name
