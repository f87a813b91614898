"""ResNets of Detectron, Caffe and timm."""

from __future__ import annotations

import re
from typing import ClassVar

import torch
from torch import Tensor, nn

from segplug_backbones.resnet import ResNet
from segplug_backbones.weight_formats.renaming import Renaming, Weights, rename, without_prefix

RGB_STD = (58.395, 57.12, 57.375)
"""Channel standard deviations used in preprocessing; Caffe's images are BGR, and only their mean is subtracted."""
BN_EPS = 1e-5


class TimmResNet(Renaming):
    """The deep stem of timm's resnet50c and resnet50d; other timm and torchvision ResNets have our names already."""

    mark = r"^conv1\.[0346]\."
    rules: ClassVar = ((r"^conv1\.", "stem."), (r"^bn1\.", "stem.7."))

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ResNet) and hasattr(module, "stem")


class CaffeResNet(Renaming):
    """Our names, trained on Caffe's images: BGR, not divided by a standard deviation.

    It cannot be recognised by its keys, so it must be given. The model needs ``style: caffe``.
    """

    mark = r"$^"
    values_only: ClassVar = (ResNet,)

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ResNet)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        return for_normalized_rgb(without_prefix(weights))


class Detectron2ResNet(Renaming):
    """Detectron2's own names, whose first convolution is for Caffe's images."""

    mark = r"^(bottom_up\.)?res2\.0\.conv1\.norm\."
    rules: ClassVar = (
        (r"^bottom_up\.", ""),
        (r"^stem\.conv1\.norm\.", "bn1."),
        (r"^stem\.conv1\.", "conv1."),
        (r"^res([2-5])\.", lambda found: f"layer{int(found[1]) - 1}."),
        (r"shortcut\.norm\.", "downsample.1."),
        (r"shortcut\.", "downsample.0."),
        (r"conv([123])\.norm\.", r"bn\1."),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ResNet)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        return for_normalized_rgb(super().convert(module, weights))


class DetectronResNet(Renaming):
    """The names of Detectron's and Detectron2's ImageNet files (R-50.pkl): blobs of Caffe2."""

    mark = r"^res2_0_branch2a_w$"
    rules: ClassVar = (
        (r"^res_conv1_bn_", "bn1_"),
        (r"^res([2-5])_(\d+)_", lambda found: f"layer{int(found[1]) - 1}.{found[2]}."),
        (r"branch1_bn_", "downsample.1_"),
        (r"branch1_", "downsample.0_"),
        (r"branch2([abc])_bn_", lambda found: f"bn{'abc'.index(found[1]) + 1}_"),
        (r"branch2([abc])_", lambda found: f"conv{'abc'.index(found[1]) + 1}_"),
        (r"_(w|s|gamma)$", ".weight"),
        (r"_(b|beta)$", ".bias"),
    )

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, ResNet)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        given = {key: value for key, value in weights.items() if not re.search(r"_momentum$|^(fc|pred)", key)}
        renamed = rename(given, self.rules)
        # Detectron folds the statistics into the norm's factor and offset; mean 0, variance 1 (less eps) are left.
        renamed = {key: value for key, value in renamed.items() if not re.search(r"conv\d\.bias$", key)}
        for key in [key for key in renamed if re.search(r"(bn\d|downsample\.1)\.weight$", key)]:
            stem = key.removesuffix("weight")
            renamed[f"{stem}running_mean"] = torch.zeros_like(renamed[key])
            renamed[f"{stem}running_var"] = torch.full_like(renamed[key], 1 - BN_EPS)
        return for_normalized_rgb(renamed)


def for_normalized_rgb(weights: Weights) -> Weights:
    """Return the weights with a first convolution that takes normalised RGB instead of BGR, and gives the same maps."""
    first: Tensor = weights["conv1.weight"]
    scale = first.new_tensor(RGB_STD).view(1, 3, 1, 1)
    return {**weights, "conv1.weight": first.flip(1) * scale}
