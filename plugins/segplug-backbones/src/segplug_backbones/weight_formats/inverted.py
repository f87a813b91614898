"""Networks of inverted residuals, MobileNetV2, MobileNetV3 and EfficientNet, as torchvision and timm publish them.

Their models pad all sides equally. Strided convolutions of our MobileNetV3 and EfficientNet pad as TensorFlow does,
which is the same for odd sizes; ``conv_cfg: null`` makes an EfficientNet pad all sides equally for all sizes. ``eps``
of the norms is 1e-3 in torchvision's MobileNetV3 and EfficientNet b5 to b7, and 1e-5 in its other EfficientNets; in
timm, it is 1e-3 in models whose name begins with tf, and 1e-5 in the others.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from torch import nn

from segplug_backbones.efficientnet import EfficientNet
from segplug_backbones.mobilenet_v2 import STAGES, MobileNetV2
from segplug_backbones.mobilenet_v3 import MobileNetV3
from segplug_backbones.weight_formats.renaming import Renaming, Weights, without_prefix

Place = tuple[int, ...]
"""The number of a block, or the numbers of its stage and of the block in it."""
Names = dict[str, str]
INSIDE = {
    1: ("",),
    2: ("depthwise_conv.", "linear_conv."),
    3: ("expand_conv.", "depthwise_conv.", "linear_conv."),
}
"""Our prefixes of a block's convolutions, by their number."""
TIMM_INSIDE = (
    ("conv_exp", "conv_pwl"),
    ("conv_pw", "conv_dw", "conv_pwl"),
    ("conv_dw", "conv_pw"),
    ("conv",),
)
"""timm's names of a block's convolutions; their norms are bn1, bn2, ... in the same order."""
SAME_STAGE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 5, 7: 5}
"""Our stage number of each published EfficientNet stage, counted from 1."""


class InvertedResiduals(Renaming):
    """Renames layer by layer: a key consists of the names of a layer and of its tensor."""

    block: ClassVar[str]
    """Regex for a layer in a block, with two groups: the place of the block, and the layer's name in it."""

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
        """Return our names of the layers before and after the blocks."""
        raise NotImplementedError

    def inside(self, module: nn.Module, layers: Collection[str]) -> Names:
        """Return our names of a block's layers."""
        raise NotImplementedError


class TimmInvertedResiduals(InvertedResiduals):
    """timm's names, which all three networks share."""

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
        names = {"features.0.0": "conv1.conv", "features.0.1": "conv1.bn"}
        return names | {"features.18.0": "conv2.conv", "features.18.1": "conv2.bn"}

    def inside(self, module: nn.Module, layers: Collection[str]) -> Names:
        last = len({name.split(".")[0] for name in layers}) - 2  # the last convolution and its norm are separate
        names = {str(last): f"conv.{last}.conv", str(last + 1): f"conv.{last}.bn"}
        for i in range(last):
            names |= {f"{i}.0": f"conv.{i}.conv", f"{i}.1": f"conv.{i}.bn"}
        return names


class TransformersMobileNetV2(InvertedResiduals):
    """transformers' names: the first block is part of the stem, the others are counted through all stages."""

    mark = r"^(mobilenet_v2\.)?conv_stem\.first_conv\.convolution\.weight$"
    block = r"^(?:mobilenet_v2\.)?layer\.(\d+)\.(.+)$"

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, MobileNetV2)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        weights = {key.removeprefix("mobilenet_v2."): value for key, value in weights.items()}
        first = {key: value for key, value in weights.items() if key.startswith("conv_stem.")}
        numbered = {f"layer.0.{key.removeprefix('conv_stem.')}": value for key, value in first.items()}
        rest = {
            re.sub(r"^layer\.(\d+)", lambda found: f"layer.{int(found[1]) + 1}", key): value
            for key, value in weights.items()
            if not key.startswith(("conv_stem.", "conv_1x1."))  # the latter of a classifier
        }
        return super().convert(module, numbered | rest)

    def ends(self, module: nn.Module) -> Names:
        return {
            "layer.0.first_conv.convolution": "conv1.conv",
            "layer.0.first_conv.normalization": "conv1.bn",
        }

    def inside(self, module: nn.Module, layers: Collection[str]) -> Names:
        convs = [name for name in ("expand_1x1", "conv_3x3", "reduce_1x1") if f"{name}.convolution" in layers]
        names = {f"{name}.convolution": f"conv.{i}.conv" for i, name in enumerate(convs)}
        return names | {f"{name}.normalization": f"conv.{i}.bn" for i, name in enumerate(convs)}


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


class EfficientNetPyTorch(InvertedResiduals):
    """The names of EfficientNet-PyTorch, which segmentation_models_pytorch uses: blocks counted through all stages.

    Its models pad as TensorFlow does for images of one size: ``padding_size`` of our EfficientNet.
    """

    mark = r"^_blocks\.0\._depthwise_conv\.weight$"
    block = r"^_blocks\.(\d+)\.(.+)$"

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, EfficientNet)

    def ends(self, module: nn.Module) -> Names:
        names = {"_conv_stem": "layers.0.conv", "_bn0": "layers.0.bn"}
        return names | {"_conv_head": "layers.6.conv", "_bn1": "layers.6.bn"}

    def inside(self, module: nn.Module, layers: Collection[str]) -> Names:
        names = {"_se_reduce": "se.conv1.conv", "_se_expand": "se.conv2.conv"}
        names |= {"_expand_conv": "expand_conv.conv", "_bn0": "expand_conv.bn"}
        names |= {"_depthwise_conv": "depthwise_conv.conv", "_bn1": "depthwise_conv.bn"}
        return names | {"_project_conv": "linear_conv.conv", "_bn2": "linear_conv.bn"}


def _stem(module: nn.Module) -> str:
    return {MobileNetV2: "conv1", MobileNetV3: "layer0"}.get(type(module), "layers.0")


def _ours(module: nn.Module, count: int) -> tuple[str, ...]:
    """Return our prefixes of a block's convolutions, which their norms share."""
    return tuple(f"conv.{i}." for i in range(count)) if isinstance(module, MobileNetV2) else INSIDE[count]


def _places(module: nn.Module, theirs: Collection[Place]) -> Mapping[Place, str]:
    """Map the places of published blocks, which are sorted, to our names of the blocks."""
    if isinstance(module, MobileNetV2):
        ours = [f"layer{i}.{block}" for i, (_, _, count) in enumerate(STAGES, start=1) for block in range(count)]
        return dict(zip(theirs, ours))
    if isinstance(module, MobileNetV3):
        return {place: f"layer{i}" for i, place in enumerate(theirs, start=1)}
    theirs = sorted(theirs)
    if len(theirs[0]) == 1:  # counted through all stages
        stages: Any = enumerate(module.layers[1:6], start=1)  # type: ignore[index]
        return dict(zip(theirs, (f"layers.{i}.{block}" for i, stage in stages for block in range(len(stage)))))
    seen: Counter[int] = Counter()
    first, names = min(theirs)[0], {}
    for place in theirs:
        stage = SAME_STAGE[place[0] - first + 1]
        names[place] = f"layers.{stage}.{seen[stage]}"
        seen[stage] += 1
    return names
