from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from segkernel import build
from segkernel.errors import ConfigError, UsageError
from segplug_backbones import TIMMBackbone
from segplug_backbones.timm_backbone import TimmMissingError


class FeatureInfo:
    def channels(self):
        return [4, 8]

    def reduction(self):
        return [4, 8]


class Net(nn.Module):
    """A model as timm makes it with ``features_only``: a network that takes images of any size."""

    feature_info = FeatureInfo()

    def __init__(self, in_chans, **_ignored):
        super().__init__()
        self.first = nn.Conv2d(in_chans, 4, 4, stride=4)
        self.second = nn.Conv2d(4, 8, 3, stride=2, padding=1)

    def forward(self, x):
        first = self.first(x)
        return [first, self.second(first)]


class WindowNet(Net):
    """Like timm's Swin: maps (N, H, W, C), and sizes that its patches divide, unless ``strict_img_size``."""

    output_fmt = "NHWC"

    def __init__(self, in_chans, strict_img_size=True):
        super().__init__(in_chans)
        self.strict = strict_img_size

    def forward(self, x):
        assert not self.strict
        assert x.shape[2] % 4 == x.shape[3] % 4 == 0
        return [y.permute(0, 2, 3, 1) for y in super().forward(x)]


class PositionNet(Net):
    """Like timm's ViT: position embeddings for one size, unless ``dynamic_img_size``."""

    def __init__(self, in_chans, img_size=224, dynamic_img_size=False, dynamic_img_pad=False):
        super().__init__(in_chans)
        self.size = None if dynamic_img_size else img_size
        self.pads = dynamic_img_pad

    def forward(self, x):
        if self.size is not None and x.shape[2:] != (self.size, self.size):
            raise AssertionError(f"input size does not match model ({self.size})")
        assert self.pads
        return super().forward(nn.functional.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)))


@pytest.fixture
def calls(monkeypatch):
    """A timm that notes how it was called; its constructors refuse arguments as timm's do."""
    found = []
    known = ("features_only", "pretrained", "checkpoint_path")

    def create_model(name, **arguments):
        if name == "missing":
            raise RuntimeError("Unknown model (missing)")
        given = {key: value for key, value in arguments.items() if key not in known}
        if name == "net" and (wrong := {"dynamic_img_size", "dynamic_img_pad", "strict_img_size"} & given.keys()):
            raise TypeError(f"Net.__init__() got an unexpected keyword argument '{sorted(wrong)[0]}'")
        net = {"net": Net, "windows": WindowNet, "positions": PositionNet}[name](**given)
        found.append({"name": name, **arguments})
        return net

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


@pytest.mark.parametrize("model_name", ["windows", "positions"])
@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
@pytest.mark.usefixtures("calls")
def test_images_may_have_any_size_and_channels_come_second(model_name, size):
    backbone = TIMMBackbone(model_name).eval()
    maps = backbone(torch.rand(2, 3, *size))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, *(-(-side // stride) for side in size))
        for channels, stride in zip(backbone.channels, backbone.strides)
    ]
    assert all(m.is_contiguous() for m in maps)


@pytest.mark.parametrize(
    ("model_name", "added"),
    [
        ("net", {}),
        ("windows", {"strict_img_size": False}),
        ("positions", {"dynamic_img_size": True, "dynamic_img_pad": True}),
    ],
)
def test_a_model_is_asked_for_any_size_as_it_can(calls, model_name, added):
    TIMMBackbone(model_name)
    sizes = {key: value for key, value in calls[0].items() if "img" in key}
    assert (len(calls), sizes) == (1, added)


def test_options_decide_about_the_size(calls):
    TIMMBackbone("positions", options={"dynamic_img_size": False, "img_size": 128})
    assert {key: value for key, value in calls[0].items() if "img" in key} == {
        "dynamic_img_size": False,
        "img_size": 128,
    }


@pytest.mark.usefixtures("calls")
def test_a_model_of_one_size_says_so():
    backbone = TIMMBackbone("positions", options={"dynamic_img_size": False, "dynamic_img_pad": True, "img_size": 32})
    assert len(backbone(torch.rand(1, 3, 32, 32))) == 2
    message = r"positions refuses images of 64 x 64 pixels: input size.*\n    .*options.img_size"
    with pytest.raises(UsageError, match=message):
        backbone(torch.rand(1, 3, 64, 64))


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
        ({"model_name": "windows", "options": {"wndow": 7}}, "timm: .*unexpected keyword argument 'wndow'"),
        ({"model_name": "net", "features_only": False}, "features_only: a backbone returns feature maps"),
        ({"model_name": "net", "norm_layer": "SyncBM"}, "norm_layer: no norm is called 'SyncBM'\n    did you mean"),
    ],
)
@pytest.mark.usefixtures("calls")
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TIMMBackbone(**arguments)


def test_without_timm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(TimmMissingError, match=r"needs timm: .*\n    pip install 'segplug-backbones\[timm\]'"):
        TIMMBackbone("resnet18")
    with pytest.raises(ConfigError, match="needs timm") as caught:
        build("backbones", {"type": "TIMMBackbone", "model_name": "resnet18"})
    assert caught.value.exit_code == 3
