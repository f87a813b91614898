"""What the weight formats of detectors share: names, the place of the background, colour order, folded batch norm."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.interfaces.model import WeightFormat
from segplug_instances.box_head import BoxHead
from segplug_instances.conventions import ConventionName
from segplug_instances.fpn import DetectionFPN
from segplug_instances.keypoint_head import KeypointHead
from segplug_instances.mask_head import MaskHead
from segplug_instances.rcnn import RCNN
from segplug_instances.resnet import DetectionResNet
from segplug_instances.rpn import RPN

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]
PARTS: tuple[tuple[type[nn.Module], str], ...] = (
    (RCNN, ""),
    (DetectionResNet, "backbone."),
    (DetectionFPN, "neck."),
    (RPN, "rpn."),
    (BoxHead, "box_head."),
    (MaskHead, "mask_head."),
    (KeypointHead, "keypoint_head."),
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
    ignored: ClassVar[str]
    """A pattern of the names without a place that no model needs."""
    conventions: ClassVar[tuple[ConventionName, ...]]
    """Conventions of the code that the weights were trained with, the usual one first."""
    background_first: ClassVar[bool] = False
    bgr: ClassVar[bool] = False
    """Whether the model was trained on images with the channels blue, green, red; ours have red, green, blue."""

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return _place_of(module) is not None and any(re.search(self.mark, key) for key in keys)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        place, own = _place_of(module) or "", module.state_dict()
        self._warn_of_convention(module)
        converted: Weights = {}
        ignored: list[str] = []
        for key, value in weights.items():
            name = self.rename(key, weights)
            places = [each.removeprefix(place) for each in _places(name) if each.startswith(place)]
            if found := [each for each in places if each in own]:
                converted |= {
                    each: self.reorder(name, value, len(own[each]) if own[each].ndim else 0) for each in found
                }
            elif not re.search(self.ignored, key):
                converted[key] = value
            else:
                ignored.append(key)
        self._tell(converted, ignored)
        return _with_statistics(converted, own)

    def rename(self, key: str, weights: Weights) -> str:
        """Return the name in an `RCNN` for a name of this format."""
        for pattern, replacement in self.rules:
            key = re.sub(pattern, replacement, key)
        return key

    def reorder(self, name: str, value: Tensor, length: int) -> Tensor:
        """Return a tensor with the background last, or left out, and with channels for RGB images.

        ``length`` is that of the model's tensor.
        """
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

    def _tell(self, taken: Weights, ignored: Sequence[str]) -> None:
        kinds = sorted({key.rpartition("_")[2] if "_momentum" in key else key for key in ignored})
        shown = ", ".join(kinds[:4]) + (f" and {len(kinds) - 4} more" if len(kinds) > 4 else "")
        rest = f"; not needed: {len(ignored)} ({shown})" if ignored else ""
        log.info("weights read by %s: %d tensors taken%s", type(self).__name__, len(taken), rest)

    def _warn_of_convention(self, module: Any) -> None:
        convention = getattr(module, "convention", None)
        if convention is not None and convention.name not in self.conventions:
            log.warning(
                "%s weights in a model with convention: %s; set convention: %s for the results of their authors",
                type(self).__name__,
                convention.name,
                self.conventions[0],
            )


def _place_of(module: nn.Module) -> str | None:
    """Return the prefix that the names of this module have in a detector; None for other modules."""
    return next((place for kind, place in PARTS if isinstance(module, kind)), None)


def _places(name: str) -> Iterator[str]:
    """Yield the names that a tensor may have, with batch or group norm, and with the last stage in the body or not."""
    stage = "backbone.layer4."
    for home in [stage, "box_head.layer4.", "mask_head.layer4."] if name.startswith(stage) else [""]:
        moved = home + name.removeprefix(stage) if home else name
        yield from dict.fromkeys((moved, re.sub(r"\.bn(\d?)\.", r".gn\1.", moved)))


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
