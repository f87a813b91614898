"""Functions that return a variant show their arguments and load the weights that ``pretrained`` names."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

import segplug_backbones
from segkernel import SegKernelError
from segkernel.errors import CheckpointError, UsageError

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


@pytest.mark.parametrize("name", ["resnet50", "mit_b0"])
def test_factories_refuse_pretrained_true_and_say_what_to_pass(name: str) -> None:
    create = getattr(segplug_backbones, name)
    with pytest.raises(UsageError, match=rf"{name}\(pretrained=True\): name the weights.*torchvision://resnet50"):
        create(pretrained=True)
    assert create(pretrained=False) is not None, "False asks for no weights"


def test_factories_refuse_weights_of_another_model(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, file := tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no tensor in the file fits the model"):
        segplug_backbones.mit_b0(pretrained=str(file))
