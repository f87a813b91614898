"""Checks of layouts: they claim what they know, and nothing else."""

from __future__ import annotations

from torch import nn

from segkernel.interfaces.model import WeightLayout
from segkernel.testing.core import Subject, check, require
from segkernel.testing.toys import ToyBackbone


@check("layouts", name="interface")
def interface(subject: Subject) -> None:
    """It is a `segkernel.interfaces.model.WeightLayout`, made without arguments."""
    require(isinstance(subject.build(), WeightLayout), "it does not build a segkernel.interfaces.model.WeightLayout")


@check("layouts", name="modest")
def modest(subject: Subject) -> None:
    """It does not claim weights of models it does not know, whatever their names."""
    layout = subject.build()
    for module in (nn.Linear(1, 1), ToyBackbone()):
        claimed = [
            keys for keys in (module.state_dict().keys(), {"blocks.0.attn.qkv.weight"}) if layout.matches(module, keys)
        ]
        require(not claimed, f"it claims weights of a {type(module).__name__}")
