"""What the weight formats of detectors share: names, the place of the background, colour order, folded batch norm."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segkernel.interfaces.model import WeightFormat
from segplug_instances.fpn import DetectionFPN
from segplug_instances.resnet import DetectionResNet

Weights = dict[str, Tensor]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]
PARTS: tuple[tuple[type[nn.Module], str], ...] = (
    (DetectionResNet, "backbone."),
    (DetectionFPN, "neck."),
)
"""Where the parts of a detector are in it; a part takes its weights from those of a whole detector."""
NORM_EPS = 1e-5


class DetectorFormat(WeightFormat):
    """A format whose weights have other names, and in some of which the background is the first class.

    `rules` lead to the names of an `RCNN` with batch norm. A tensor goes to every place of the model that it fits: the
    last stage of a ResNet is in the body, or, for C4, in the box head. What has no place keeps its name, so that it is
    reported; what no model needs is `ignored`.
    """

    mark: ClassVar[str]
    """A pattern that matches a name of this format only."""
    rules: ClassVar[Sequence[Rule]]
    """Patterns and replacements, applied in order."""
    ignored: ClassVar[str] = r"$^"
    """A pattern of the names that no model needs."""
    background_first: ClassVar[bool] = False
    bgr: ClassVar[bool] = False
    """Whether the model was trained on images with the channels blue, green, red; ours have red, green, blue."""

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return _place_of(module) is not None and any(re.search(self.mark, key) for key in keys)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        place, own = _place_of(module) or "", module.state_dict()
        converted: Weights = {}
        for key, value in weights.items():
            if re.search(self.ignored, key):
                continue
            name = self.rename(key, weights)
            places = [each.removeprefix(place) for each in _places(name) if each.startswith(place)]
            found = [each for each in places if each in own]
            converted |= {each: self.reorder(name, value) for each in found} or {key: value}
        return _with_statistics(converted, own)

    def rename(self, key: str, weights: Weights) -> str:
        """Return the name in an `RCNN` for a name of this format."""
        for pattern, replacement in self.rules:
            key = re.sub(pattern, replacement, key)
        return key

    def reorder(self, name: str, value: Tensor) -> Tensor:
        """Return a tensor with the background last, or left out, and with channels for RGB images."""
        if self.bgr and name == "backbone.conv1.weight":
            return value.flip(1)
        if not self.background_first:
            return value
        if name.startswith("box_head.cls_score."):
            return value.roll(-1, 0)
        if name.startswith("box_head.bbox_pred."):
            return value[4:]
        if name.startswith("mask_head.mask_logits.") and len(value) > 1:  # not for masks that know no class
            return value[1:]
        return value


def _place_of(module: nn.Module) -> str | None:
    """Return the prefix that the names of this module have in a detector; None for other modules."""
    return next((place for kind, place in PARTS if isinstance(module, kind)), None)


def _places(name: str) -> Iterator[str]:
    """Yield the names that a tensor may have, with batch or group norm, and with the last stage in the body or not."""
    stage = "backbone.layer4."
    homes = [stage, "box_head.layer4.", "mask_head.layer4."] if name.startswith(stage) else [""]
    for home in homes:
        moved = home + name.removeprefix(stage) if home else name
        yield moved
        yield re.sub(r"\.bn(\d?)\.", r".gn\1.", moved)


def _with_statistics(weights: Weights, own: Weights) -> Weights:
    """Add the statistics of batch norms that are folded into a scale and a shift: they change nothing any more."""
    for name in own.keys() - weights.keys():
        layer, _, leaf = name.rpartition(".")
        scale = weights.get(f"{layer}.weight")
        if scale is None:
            continue
        if leaf == "running_mean":
            weights[name] = torch.zeros_like(scale)
        elif leaf == "running_var":
            weights[name] = torch.full_like(scale, 1 - NORM_EPS)
        elif leaf == "num_batches_tracked":
            weights[name] = torch.zeros_like(own[name])
    return weights
