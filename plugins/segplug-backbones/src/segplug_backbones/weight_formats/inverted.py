"""Networks of inverted residuals, MobileNetV2, MobileNetV3 and EfficientNet, as torchvision and timm publish them.

Both pad all sides equally. Our MobileNetV3 and EfficientNet pad as TensorFlow does where they stride, which is the
same for odd sizes; ``conv_cfg: null`` makes it the same everywhere in an EfficientNet. Norms of torchvision's
MobileNetV3, and of its EfficientNet b5 to b7, have an ``eps`` of 1e-3, of its other EfficientNets 1e-5; timm's have
1e-5, or 1e-3 where the name of the model begins with tf.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import ClassVar

from torch import nn

from segplug_backbones.efficientnet import EfficientNet
from segplug_backbones.mobilenet_v2 import STAGES, MobileNetV2
from segplug_backbones.mobilenet_v3 import MobileNetV3
from segplug_backbones.weight_formats.renaming import Renaming, Weights, without_prefix

Place = tuple[int, ...]
"""The number of a block, or those of its stage and itself."""
Names = dict[str, str]
INSIDE = {
    1: ("",),
    2: ("depthwise_conv.", "linear_conv."),
    3: ("expand_conv.", "depthwise_conv.", "linear_conv."),
}
"""Our names of a block's convolutions, by how many it has."""
TIMM_INSIDE = (
    ("conv_exp", "conv_pwl"),
    ("conv_pw", "conv_dw", "conv_pwl"),
    ("conv_dw", "conv_pw"),
    ("conv",),
)
"""timm's; each is followed by a norm, bn1, bn2, ..."""
SAME_STAGE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 5, 7: 5}
"""Ours of the stages of an EfficientNet, counted from 1: we count those that halve the map."""


class InvertedResiduals(Renaming):
    """Renames layer by layer: a key is a layer's name and that of its tensor."""

    block: ClassVar[str]
    """A pattern of a layer's name in a block: the place of the block, then the layer's name in it."""

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        weights = without_prefix(weights)
        names = self.ends(module)
        blocks: dict[Place, list[str]] = defaultdict(list)
        places: dict[Place, str] = {}
        for layer in dict.fromkeys(key.rpartition(".")[0] for key in weights):
            if found := re.search(self.block, layer):
                place = tuple(int(number) for number in found[1].split("."))
                blocks[place].append(found[2])
                places[place] = layer.removesuffix(found[2])
        for place, ours in _places(module, sorted(blocks)).items():
            names |= {
                f"{places[place]}{old}": f"{ours}.{new}" for old, new in self.inside(module, blocks[place]).items()
            }
        parts = {key: key.rpartition(".") for key in weights}
        return {f"{names.get(layer, layer)}.{leaf}": weights[key] for key, (layer, _, leaf) in parts.items()}

    def ends(self, module: nn.Module) -> Names:
        """Return our names of the layers before and behind the blocks."""
        raise NotImplementedError

    def inside(self, module: nn.Module, layers: Collection[str]) -> Names:
        """Return our names of a block's layers."""
        raise NotImplementedError


class TimmInvertedResiduals(InvertedResiduals):
    """timm's names, the same for all three kinds of network."""

    mark = r"^blocks\.0\.0\.(conv_dw|conv_exp)\.weight$"
    block = r"^blocks\.(\d+\.\d+)\.(.+)$"

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, (MobileNetV2, MobileNetV3, EfficientNet))

    def ends(self, module: nn.Module) -> Names:
        stem = _stem(module)
        names = {"conv_stem": f"{stem}.conv", "bn1": f"{stem}.bn"}
        if isinstance(module, EfficientNet):
            names |= {"conv_head": "layers.6.conv", "bn2": "layers.6.bn"}
        return names

    def inside(self, module: nn.Module, layers: Collection[str]) -> Names:
        convs = next(convs for convs in TIMM_INSIDE if set(convs) <= set(layers))
        ours = ("conv1.", "conv2.") if "conv_exp" in convs else _ours(module, len(convs))
        names = {"se.conv_reduce": "se.conv1.conv", "se.conv_expand": "se.conv2.conv"}
        for i, (conv, name) in enumerate(zip(convs, ours, strict=True), start=1):
            names |= {conv: f"{name}conv", f"bn{i}": f"{name}bn"}
        return names


class TorchvisionMobileNetV2(InvertedResiduals):
    """torchvision's names: blocks counted through all stages."""

    mark = r"^features\.1\.conv\.0\.0\.weight$"
    block = r"^features\.(\d+)\.conv\.(.+)$"

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, MobileNetV2)

    def ends(self, module: nn.Module) -> Names:
        return {"features.0.0": "conv1.conv", "features.0.1": "conv1.bn"}

    def inside(self, module: nn.Module, layers: Collection[str]) -> Names:
        last = len({name.split(".")[0] for name in layers}) - 2  # the last convolution and its norm are separate
        names = {str(last): f"conv.{last}.conv", str(last + 1): f"conv.{last}.bn"}
        for i in range(last):
            names |= {f"{i}.0": f"conv.{i}.conv", f"{i}.1": f"conv.{i}.bn"}
        return names


class TorchvisionInvertedResiduals(InvertedResiduals):
    """torchvision's names of MobileNetV3 and EfficientNet."""

    mark = r"^features\.1\.(0\.)?block\.0\.0\.weight$"
    block = r"^features\.([\d.]+)\.block\.(.+)$"

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, (MobileNetV3, EfficientNet))

    def ends(self, module: nn.Module) -> Names:
        small = isinstance(module, MobileNetV3) and not hasattr(module, "layer16")
        theirs, ours = (12, "layer12") if small else (16, "layer16")
        if isinstance(module, EfficientNet):
            theirs, ours = 8, "layers.6"
        names: Names = {}
        for number, name in ((0, _stem(module)), (theirs, ours)):
            names |= {f"features.{number}.0": f"{name}.conv", f"features.{number}.1": f"{name}.bn"}
        return names

    def inside(self, module: nn.Module, layers: Collection[str]) -> Names:
        convs = sorted(name.removesuffix(".0") for name in layers if name.endswith(".0"))
        names: Names = {}
        for number, name in zip(convs, _ours(module, len(convs)), strict=True):
            names |= {f"{number}.0": f"{name}conv", f"{number}.1": f"{name}bn"}
        for name in layers:
            if found := re.search(r"\.fc([12])$", name):
                names[name] = f"se.conv{found[1]}.conv"
        return names


def _stem(module: nn.Module) -> str:
    return {MobileNetV2: "conv1", MobileNetV3: "layer0"}.get(type(module), "layers.0")


def _ours(module: nn.Module, count: int) -> tuple[str, ...]:
    """Return our names of a block's convolutions, each one's with its norm's."""
    return tuple(f"conv.{i}." for i in range(count)) if isinstance(module, MobileNetV2) else INSIDE[count]


def _places(module: nn.Module, theirs: Collection[Place]) -> Mapping[Place, str]:
    """Return our names of their blocks, which are in order."""
    if isinstance(module, MobileNetV2):
        ours = [f"layer{i}.{block}" for i, (_, _, count) in enumerate(STAGES, start=1) for block in range(count)]
        return dict(zip(theirs, ours))
    if isinstance(module, MobileNetV3):
        return {place: f"layer{i}" for i, place in enumerate(theirs, start=1)}
    seen: Counter[int] = Counter()
    first, names = min(theirs)[0], {}
    for place in theirs:
        stage = SAME_STAGE[place[0] - first + 1]
        names[place] = f"layers.{stage}.{seen[stage]}"
        seen[stage] += 1
    return names
