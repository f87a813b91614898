"""Checks of weight formats: they claim what they know, and nothing else."""

from __future__ import annotations

from torch import nn

from segkernel.interfaces.model import WeightFormat
from segkernel.testing.core import Subject, check, require
from segkernel.testing.toys import ToyBackbone


@check("weight_formats", name="interface")
def interface(subject: Subject) -> None:
    """It is a `segkernel.interfaces.model.WeightFormat`, made without arguments; suffixes begin with a dot."""
    found = subject.build()
    require(isinstance(found, WeightFormat), "it does not build a segkernel.interfaces.model.WeightFormat")
    wrong = [suffix for suffix in found.suffixes if suffix != suffix.lower() or not suffix.startswith(".")]
    require(not wrong, f"suffixes begin with a dot and are in lower case, not {wrong}")


@check("weight_formats", name="modest")
def modest(subject: Subject) -> None:
    """It claims no weights of models it does not know, whatever their names, and no path of a plain file."""
    found = subject.build()
    for module in (nn.Linear(1, 1), ToyBackbone()):
        keys = [module.state_dict().keys(), {"blocks.0.attn.qkv.weight"}]
        require(
            not any(found.matches(module, each) for each in keys), f"it claims weights of a {type(module).__name__}"
        )
    require(not found.locates("no_such_file.pth"), "it claims to locate no_such_file.pth")
