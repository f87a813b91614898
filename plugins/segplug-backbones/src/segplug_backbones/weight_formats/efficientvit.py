"""EfficientViT as its authors publish it."""

from __future__ import annotations

from torch import nn

from segplug_backbones.efficientvit import EfficientViT
from segplug_backbones.weight_formats.renaming import Renaming, Rule, Weights, rename, without_prefix


class OfficialEfficientViT(Renaming):
    """The authors' names: the stem of the B series is called so, that of the L series is the first of five stages."""

    mark = r"^(input_stem|stages\.0)\.op_list\.0\.conv\.weight$"

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, EfficientViT)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        weights = without_prefix(weights)
        first = 0 if any(key.startswith("input_stem.") for key in weights) else 1
        stem = r"stages\.0" if first else "input_stem"
        rules: tuple[Rule, ...] = (
            (rf"^{stem}\.op_list\.0\.", "stem.in_conv."),
            (rf"^{stem}\.op_list\.(\d+)\.", lambda found: f"stem.res{int(found[1]) - 1}."),
            (r"^stages\.(\d)\.op_list\.", lambda found: f"stages.{int(found[1]) - first}.blocks."),
        )
        return rename(weights, rules)
