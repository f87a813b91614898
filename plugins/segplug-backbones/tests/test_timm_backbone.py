from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch
from torch import nn

from segkernel.build import build
from segkernel.errors import ConfigError
from segplug_backbones import TIMMBackbone
from segplug_backbones.timm_backbone import TimmMissingError


class FeatureInfo:
    def channels(self):
        return [4, 8]

    def reduction(self):
        return [4, 8]


class Net(nn.Module):
    """Looks like what timm makes with ``features_only``."""

    feature_info = FeatureInfo()

    def __init__(self, in_chans):
        super().__init__()
        self.first = nn.Conv2d(in_chans, 4, 4, stride=4)
        self.second = nn.Conv2d(4, 8, 2, stride=2)

    def forward(self, x):
        first = self.first(x)
        return [first, self.second(first)]


@pytest.fixture
def calls(monkeypatch):
    """A timm that notes how it was called."""
    found = []

    def create_model(name, **arguments):
        if name == "missing":
            raise RuntimeError("Unknown model (missing)")
        found.append({"name": name, **arguments})
        return Net(arguments["in_chans"])

    timm = types.ModuleType("timm")
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    return found


def test_maps_channels_and_strides_are_timms(calls):
    backbone = build("backbones", {"type": "TIMMBackbone", "model_name": "net", "in_channels": 5})
    assert (backbone.channels, backbone.strides) == ((4, 8), (4, 8))
    maps = backbone(torch.rand(1, 5, 64, 64))
    assert isinstance(maps, tuple)
    assert [m.shape[1:] for m in maps] == [(4, 16, 16), (8, 8, 8)]
    assert calls == [
        {"name": "net", "features_only": True, "pretrained": True, "checkpoint_path": "", "in_chans": 5},
    ]
    assert {key.split(".")[0] for key in backbone.state_dict()} == {"timm_model"}


def test_arguments_reach_timm(calls):
    TIMMBackbone(
        "net", pretrained=False, checkpoint_path="net.pth", out_indices=[1, 2], output_stride=16, drop_path_rate=0.1,
        norm_layer="SyncBN", options={"img_size": 512},
    )  # fmt: skip
    (call,) = calls
    assert (call["pretrained"], call["checkpoint_path"]) == (False, "net.pth")
    assert (call["out_indices"], call["output_stride"], call["drop_path_rate"]) == ((1, 2), 16, 0.1)
    assert issubclass(call["norm_layer"], nn.BatchNorm2d)
    assert call["img_size"] == 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "missing"}, r"timm: Unknown model \(missing\)"),
        ({"model_name": "net", "features_only": False}, "features_only: a backbone returns feature maps"),
        ({"model_name": "net", "norm_layer": "SyncBM"}, "norm_layer: no norm is called 'SyncBM'\n    did you mean"),
    ],
)
@pytest.mark.usefixtures("calls")
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TIMMBackbone(**arguments)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_without_timm_the_error_says_what_to_install():
    with pytest.raises(TimmMissingError, match=r"needs timm: No module.*\n    pip install 'segplug-backbones\[timm\]'"):
        TIMMBackbone("resnet18")
    with pytest.raises(ConfigError, match="needs timm") as caught:
        build("backbones", {"type": "TIMMBackbone", "model_name": "resnet18"})
    assert caught.value.exit_code == 3
