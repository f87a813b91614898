"""MSCAN, and whole SegNeXts, as their authors publish them."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from segplug_backbones.mscan import MSCAN
from segplug_backbones.weight_formats.renaming import Renaming, Weights, rename


class OfficialMSCAN(Renaming):
    """Names of ours, but that the convolution in a feed-forward layer stands in a module of its own."""

    mark = r"^block1\.0\.mlp\.dwconv\.dwconv\.weight$"
    rules: ClassVar = ((r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),)

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, MSCAN) or isinstance(getattr(module, "backbone", None), MSCAN)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        return super().convert(module, weights) if isinstance(module, MSCAN) else rename(weights, self.rules)
