"""What was taken over builds, has the shapes that a model needs, and as many parameters as the original."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segkernel.sample import Targets
from segplug_my_model import module_of_former

COMPONENTS: list[tuple[str, str, int | None]] = [
    # COMPONENTS
]
"""Group, class, and its number of parameters in the original: ``sum(p.numel() for p in model.parameters())``, with
the arguments in ``conformance``. None is not compared."""
OF_GROUP = {group: [name for each, name, _ in COMPONENTS if each == group] for group in ("heads", "backbones")}


def build(name: str) -> Any:
    cls = getattr(module_of_former, name)
    return cls(**getattr(cls, "conformance", {}))


@pytest.mark.parametrize("name", OF_GROUP["heads"])
def test_a_head_returns_logits_and_learns(name: str) -> None:
    torch.manual_seed(0)
    head = build(name)
    example = getattr(module_of_former, name).conformance
    widths = example["in_channels"]
    widths = widths if isinstance(widths, list) else [widths]
    features = [torch.randn(2, width, 64 >> level, 64 >> level) for level, width in enumerate(widths)]
    logits = head(features)
    assert logits.shape[:2] == (2, example["num_classes"])
    losses = head.loss(features, Targets({"seg": torch.randint(0, example["num_classes"], (2, 64, 64))}))
    sum(value for key, value in losses.items() if "loss" in key).backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())


@pytest.mark.parametrize("name", OF_GROUP["backbones"])
def test_a_backbone_returns_the_declared_maps(name: str) -> None:
    backbone = build(name).eval()
    maps = backbone(torch.rand(1, 3, 64, 64))
    channels, strides = tuple(x.shape[1] for x in maps), tuple(64 // x.shape[2] for x in maps)
    declared = tuple(getattr(backbone, "channels", ())), tuple(getattr(backbone, "strides", ()))
    assert declared == (channels, strides), f"set self.channels, self.strides = {channels}, {strides}"


@pytest.mark.parametrize(("group", "name", "parameters"), COMPONENTS)
def test_parameters_are_those_of_the_original(group: str, name: str, parameters: int | None) -> None:
    found = sum(parameter.numel() for parameter in build(name).parameters())
    if parameters is None:
        pytest.skip(f"{name} has {found} parameters; write down how many the original has")
    assert found == parameters
