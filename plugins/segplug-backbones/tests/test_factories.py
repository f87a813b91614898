"""Classes and functions load the weights that ``pretrained`` names; functions show their arguments."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

import segplug_backbones
from segkernel import SegKernelError
from segkernel.errors import CheckpointError, UsageError
from segkernel.signature import signature
from segplug_backbones.pretrained import Pretrained

FACTORIES = [name for name in segplug_backbones.__all__ if name.islower()]


def test_factories_show_every_argument_with_its_type_and_default() -> None:
    shown = {name: inspect.signature(getattr(segplug_backbones, name)).parameters for name in FACTORIES}
    assert len(shown) >= 32
    assert not {name for name, found in shown.items() for each in found.values() if each.kind is each.VAR_KEYWORD}
    assert not {name for name, found in shown.items() for each in found.values() if each.annotation is each.empty}
    assert not {name for name, found in shown.items() for each in found.values() if each.default is each.empty}
    assert {"in_channels", "frozen_stages", "norm_cfg", "with_cp"} <= shown["resnet50"].keys()


def test_factories_load_what_pretrained_names_or_refuse(tmp_path: Path) -> None:
    saved = segplug_backbones.mit_b0(drop_path_rate=0.0)
    torch.save(saved.state_dict(), file := tmp_path / "mit.pth")
    loaded = segplug_backbones.mit_b0(pretrained=str(file))
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert loaded.pretrained is None, "a run must not load it again"
    for name in ("hrnet_w18_small", "mscan_tiny", "pcpvt_small", "resnet18", "stdc1", "svt_small", "swin_tiny"):
        with pytest.raises(SegKernelError, match=r"gone\.pth: no such file"), torch.device("meta"):
            getattr(segplug_backbones, name)(pretrained="gone.pth")


def test_every_class_with_the_argument_pretrained_loads_it_or_refuses() -> None:
    exported = [getattr(segplug_backbones, name) for name in segplug_backbones.__all__ if not name.islower()]
    classes = [each for each in exported if isinstance(each, type) and "pretrained" in signature(each)]
    named = [cls for cls in classes if "str" in str(signature(cls)["pretrained"].annotation)]  # not timm's own flag
    assert len(named) >= 18
    assert not [cls.__name__ for cls in named if not issubclass(cls, Pretrained)]
    for create in (lambda: segplug_backbones.ResNet(18, pretrained="gone.pth"), lambda: Wider("gone.pth")):
        with pytest.raises(CheckpointError, match=r"gone\.pth: no such file"), torch.device("meta"):
            create()


def test_a_subclass_loads_the_weights_of_its_own_layers(tmp_path: Path) -> None:
    torch.save(Wider().state_dict(), file := tmp_path / "wider.pth")
    assert torch.equal(Wider(str(file)).gain, torch.load(file)["gain"])


class Wider(segplug_backbones.ResNet):
    def __init__(self, pretrained: str | None = None) -> None:
        super().__init__(18, base_channels=8, stem_channels=8, pretrained=pretrained)
        self.gain = torch.nn.Parameter(torch.rand(3))


@pytest.mark.parametrize(("name", "cls"), [("resnet50", "ResNet"), ("mit_b0", "MixVisionTransformer")])
def test_pretrained_true_is_refused_and_the_message_says_what_to_pass(name: str, cls: str) -> None:
    create = getattr(segplug_backbones, name)
    with pytest.raises(UsageError, match=rf"{cls}\(pretrained=True\): name the weights.*torchvision://resnet50"):
        create(pretrained=True)
    assert create(pretrained=False) is not None, "False asks for no weights"


def test_factories_refuse_weights_of_another_model(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, file := tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no tensor in the file fits the model"):
        segplug_backbones.mit_b0(pretrained=str(file))
