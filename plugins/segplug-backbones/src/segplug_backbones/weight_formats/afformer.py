"""AFFormer as its authors publish it."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import nn

from segplug_backbones.afformer import AFFormer
from segplug_backbones.weight_formats.renaming import Renaming, Weights

SHARED = re.compile(r"\.MHCA_layers\.\d+\.((factoratt_crpe\.)?crpe|cpe)\.")
"""Copies of what the blocks of a stage share."""


class OfficialAFFormer(Renaming):
    """The authors' names, with positions and filters that all blocks of a stage share listed for each block."""

    mark = r"^mhca_stages\.0\.Restore\.conv1\.conv\.weight$"
    rules: ClassVar = ((r"\.patch_embeds\.(\d)\.patch_conv\.", r".\1."),)

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, AFFormer)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        return {key: value for key, value in super().convert(module, weights).items() if not SHARED.search(key)}
