"""STDC networks as their authors publish them."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import nn

from segplug_backbones.stdc import STDCNet
from segplug_backbones.weight_formats.renaming import Renaming, Weights


class OfficialSTDC(Renaming):
    """One sequence of layers, counted by stages here; segmentation models hold it twice, once as ``cp``."""

    mark = r"^(cp\.)?features\.2\.conv_list\.0\."
    rules: ClassVar = (
        (r"^cp\.", ""),
        (r"\.conv_list\.", ".layers."),
        (r"\.avd_layer\.0\.", ".downsample.conv."),
        (r"\.avd_layer\.1\.", ".downsample.bn."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, STDCNet)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        names = ["0", "1"]
        for index, stage in list(enumerate(module.stages))[2:]:  # type: ignore[arg-type]
            names += [f"{index}.{block}" for block in range(len(stage))]
        converted = {}
        for key, value in super().convert(module, weights).items():
            found = re.match(r"features\.(\d+)\.(.*)", key)
            if found and int(found[1]) < len(names):
                converted[f"stages.{names[int(found[1])]}.{found[2]}"] = value
        return converted
