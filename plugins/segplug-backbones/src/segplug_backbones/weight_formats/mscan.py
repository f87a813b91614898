"""MSCAN, and whole SegNeXts, as their authors publish them."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from segplug_backbones.mscan import MSCAN
from segplug_backbones.weight_formats.renaming import Renaming, Weights, rename


class OfficialMSCAN(Renaming):
    """Our names, but for the depthwise convolution of a feed-forward layer, which is wrapped in a module."""

    mark = r"^block1\.0\.mlp\.dwconv\.dwconv\.weight$"
    rules: ClassVar = ((r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),)

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, MSCAN) or isinstance(getattr(module, "backbone", None), MSCAN)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        return super().convert(module, weights) if isinstance(module, MSCAN) else rename(weights, self.rules)
