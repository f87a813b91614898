"""VGG and ShuffleNetV2 as torchvision publishes them."""

from __future__ import annotations

import re
from typing import ClassVar

from torch import nn

from segplug_backbones.shufflenet_v2 import ShuffleNetV2
from segplug_backbones.vgg import VGG
from segplug_backbones.weight_formats.renaming import Renaming, Weights

IN_BRANCH = {
    "1": {"0": "0.conv", "1": "0.bn", "2": "1.conv", "3": "1.bn"},
    "2": {"0": "0.conv", "1": "0.bn", "3": "1.conv", "4": "1.bn", "5": "2.conv", "6": "2.bn"},
}
"""Names of the layers of a ShuffleNetV2 block by branch, from torchvision's number to ours."""


class TorchvisionVGG(Renaming):
    """One sequence of convolutions, norms where there are any, activations and pooling."""

    mark = r"^features\.0\.weight$"

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, VGG)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        weights = super().convert(module, weights)
        layers = {
            int(found[1]): weights[key].ndim for key in weights if (found := re.match(r"features\.(\d+)\.weight$", key))
        }
        names: dict[int, str] = {}
        ours = iter(_convolutions(module))
        for number in sorted(layers):
            if layers[number] == 4 and (name := next(ours, None)) is not None:
                norm = layers.get(number + 1) == 1
                names |= {number: f"{name}.conv"} | ({number + 1: f"{name}.bn"} if norm else {})
        converted = {}
        for key, value in weights.items():
            found = re.match(r"features\.(\d+)\.(.*)", key)
            if found and int(found[1]) in names:
                converted[f"{names[int(found[1])]}.{found[2]}"] = value
        return converted


class TorchvisionShuffleNetV2(Renaming):
    """torchvision's names, which number activations as layers."""

    mark = r"^stage2\.0\.branch1\.0\.weight$"
    rules: ClassVar = (
        (r"^conv5\.0\.", "layers.3.conv."),
        (r"^conv5\.1\.", "layers.3.bn."),
        (r"^conv1\.0\.", "conv1.conv."),
        (r"^conv1\.1\.", "conv1.bn."),
        (r"^stage([234])\.", lambda found: f"layers.{int(found[1]) - 2}."),
        (r"\.branch([12])\.(\d)\.", lambda found: f".branch{found[1]}.{IN_BRANCH[found[1]][found[2]]}."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ShuffleNetV2)


def _convolutions(module: nn.Module) -> list[str]:
    """Return the names of a VGG's `ConvModule`s: each convolution shares its name with its norm."""
    return [name.removesuffix(".conv") for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
