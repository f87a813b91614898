"""Bodies: ResNet and FPN against Detectron.pytorch, with weights that go through Detectron's format."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from recorded import RECORDED
from torch import nn

from segkernel.errors import ConfigError
from segplug_instances import DetectionFPN, DetectionResNet
from segplug_instances.weight_formats.detectron import DetectronBlobs, DetectronPyTorch

NAMES = sorted(path.stem.removeprefix("dpt_body_") for path in (RECORDED / "models").glob("dpt_body_*.json"))


def layers_of(name: str) -> list[nn.Module]:
    """Return body, and neck if there is one, of a name of Detectron's: ``fpn_ResNet50_conv5_P2only_body``."""
    depth = int(re.search(r"ResNet(\d+)", name)[1])  # type: ignore[index]
    options: dict[str, Any] = {"style": "caffe", "frozen_stages": 1}
    if "dilation2" in name:
        options |= {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)}
    if name.startswith("fpn"):
        return [DetectionResNet(depth, **options), DetectionFPN(num_outs=1 if "P2only" in name else 5)]
    stages = 3 if "conv4" in name else 4
    return [DetectionResNet(depth, num_stages=stages, out_indices=[stages - 1], **options)]


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_detectrons(golden: Any, name: str) -> None:
    facts, arrays = golden.load(f"models/dpt_body_{name}")
    blobs = golden.fill_blobs({blob: {"shape": shape} for blob, shape in facts["keys"].values() if blob})
    layers = layers_of(name)
    for layer in layers:
        load(layer, DetectronBlobs(), blobs)
    seed = int(facts["input"].partition("(")[2].partition(")")[0])
    image = np.random.RandomState(seed).standard_normal((1, 3, 96, 128)).astype(np.float32)
    x: Any = torch.from_numpy(image).flip(1)  # recorded with blue, green, red
    with torch.no_grad():
        for layer in layers:
            x = layer(x)
    maps = list(reversed(x))
    assert len(maps) == len([key for key in arrays if key.startswith("out_")])
    errors = {
        i: golden.error(golden.sliced(facts, f"out_{i}", each), arrays[f"out_{i}"]) for i, each in enumerate(maps)
    }
    assert max(errors.values()) <= (1e-4 if "ResNet50" in name else 1e-3), errors


@pytest.mark.parametrize("name", ["ResNet50_conv4_body", "fpn_ResNet50_conv5_body"])
def test_names_of_detectron_pytorch_hold_the_same_weights(golden: Any, name: str) -> None:
    facts, _ = golden.load(f"models/dpt_body_{name}")
    by_blob = golden.fill_blobs({blob: {"shape": shape} for blob, shape in facts["keys"].values()})
    by_key = {f"Conv_Body.{key}": by_blob[blob] for key, (blob, _) in facts["keys"].items()}
    for layer in layers_of(name):
        load(layer, DetectronPyTorch(), by_key)
        first = {key: value.clone() for key, value in layer.state_dict().items()}
        load(layer, DetectronBlobs(), by_blob)
        assert all(torch.equal(value, first[key]) for key, value in layer.state_dict().items())


def test_frozen_batch_norm_equals_batch_norm_in_evaluation() -> None:
    torch.manual_seed(0)
    trained = DetectionResNet(50, base_channels=8, norm_cfg={"type": "BN"})
    trained.train()(torch.randn(2, 3, 64, 64))  # moves the running statistics
    frozen = DetectionResNet(50, base_channels=8)
    frozen.load_state_dict(trained.state_dict())
    images = torch.randn(1, 3, 64, 64)
    for one, other in zip(frozen(images), trained.eval()(images)):
        assert torch.allclose(one, other, atol=1e-5 * other.abs().max().item())
    assert not [name for name, _ in frozen.named_parameters() if "bn" in name]


def test_frozen_stages_have_no_gradient() -> None:
    body = DetectionResNet(50, base_channels=8, frozen_stages=1, norm_cfg={"type": "BN"}).train()
    frozen = {name.partition(".")[0] for name, parameter in body.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    assert not body.bn1.training


def test_group_norm_replaces_batch_norm() -> None:
    body = DetectionResNet(50, base_channels=8, norm_cfg={"type": "GN", "num_groups": 4})
    assert isinstance(body.get_submodule("layer1.0.gn2"), nn.GroupNorm)
    assert not [key for key in body.state_dict() if "bn" in key]


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"depth": 34}, "depth"),
        ({"num_stages": 5}, "num_stages"),
        ({"strides": (1, 2)}, "strides"),
        ({"num_stages": 3}, "out_indices"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DetectionResNet(**arguments)
    assert caught.value.problems[0].path == path


def load(module: nn.Module, format: Any, weights: dict[str, torch.Tensor]) -> None:
    """Load weights that fill the module; those of other parts are left over."""
    assert format.matches(module, weights.keys())
    converted, own = format.convert(module, dict(weights)), module.state_dict()
    module.load_state_dict({key: converted[key] for key in own})
