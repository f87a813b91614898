"""Checks of weight formats: they match the weights they support, and no others."""

from __future__ import annotations

import contextlib

from torch import nn

from segkernel.errors import SegKernelError
from segkernel.interfaces.model import WeightFormat
from segkernel.testing.core import Subject, check, require, skip_unless
from segkernel.testing.hostile import HOSTILE, runs_nothing, write_hostile
from segkernel.testing.toys import ToyBackbone


@check("weight_formats", name="suffixes")
def suffixes(subject: Subject) -> None:
    """They are in lower case and begin with a dot."""
    found = subject.build()
    wrong = [suffix for suffix in found.suffixes if suffix != suffix.lower() or not suffix.startswith(".")]
    require(not wrong, f"suffixes must begin with a dot and be in lower case, not {wrong}")


@check("weight_formats", name="modest")
def modest(subject: Subject) -> None:
    """It does not claim weights of unknown models, regardless of their names, nor the path of a plain file."""
    found = subject.build()
    for module in (nn.Linear(1, 1), ToyBackbone()):
        keys = [module.state_dict().keys(), {"blocks.0.attn.qkv.weight"}]
        claimed = any(found.matches(module, each) for each in keys)
        require(not claimed, f"it claims weights of a {type(module).__name__}")
    require(not found.locates("no_such_file.pth"), "it claims to locate no_such_file.pth")


@check("weight_formats", name="complete")
def complete(subject: Subject) -> None:
    """It recognises its example, and converts it to all tensors of the model."""
    skip_unless("make" in subject.inputs, "conformance_inputs has no 'make', which returns a module and weights for it")
    module, weights = subject.inputs["make"]()
    found, own = subject.build(), module.state_dict()
    require(found.matches(module, weights.keys()), "it does not recognise the names of its example")
    converted = found.convert(module, dict(weights))
    lost = [name for name, value in own.items() if name not in converted or converted[name].shape != value.shape]
    require(not lost, f"{len(lost)} of {len(own)} tensors are missing after convert, or have another shape: {lost[:4]}")


@check("weight_formats", name="no-code")
def no_code(subject: Subject) -> None:
    """Files with code are refused, or read without running it."""
    found = subject.build()
    skip_unless(type(found).read is not WeightFormat.read, "it reads no files")
    for kind in HOSTILE:
        path = write_hostile(kind, subject.folder / f"hostile{next(iter(found.suffixes), '.pth')}")
        with runs_nothing(subject.folder), contextlib.suppress(SegKernelError):
            found.read(path)
