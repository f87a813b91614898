"""EfficientViT as its authors publish it."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from segplug_backbones.efficientvit import EfficientViT
from segplug_backbones.weight_formats.renaming import Renaming


class OfficialEfficientViT(Renaming):
    """The authors' names."""

    mark = r"^input_stem\.op_list\.0\.conv\.weight$"
    rules: ClassVar = (
        (r"^input_stem\.op_list\.0\.", "stem.in_conv."),
        (r"^input_stem\.op_list\.(\d+)\.", lambda found: f"stem.res{int(found[1]) - 1}."),
        (r"^stages\.(\d)\.op_list\.", r"stages.\1.blocks."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, EfficientViT)
