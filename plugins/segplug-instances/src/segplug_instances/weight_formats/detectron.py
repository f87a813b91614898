"""Detectron's files of Caffe2 blobs (``model_final.pkl``, MSRA's ``R-50.pkl``), and the names of Detectron.pytorch."""

from __future__ import annotations

import importlib.util
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from segkernel.errors import CheckpointError
from segkernel.interfaces.model import WeightFormat
from segplug_instances.resnet import DetectionResNet
from segplug_instances.weight_formats.renaming import DetectorFormat, Weights

_LEAF = {"w": "weight", "s": "weight", "b": "bias"}


def _blob(name: str) -> Any:
    """Return a replacement for the name of a blob whose last letter, the last group, says weight, scale or bias."""
    return lambda found: found.expand(name) + _LEAF[found[found.re.groups]]


class DetectronBlobs(DetectorFormat):
    """Blobs of Detectron's detectors and of MSRA's ResNets, by Caffe2's names.

    Batch norm is folded into a scale and a shift. Momentum, the biases of convolutions before a norm, the ImageNet
    classifier and the fixed kernel that enlarges keypoint maps are not needed.
    """

    mark = r"^(res2_0_branch2a_w|conv_rpn\w*_w|fc6_w|mask_fcn_logits_w|kps_score_lowres_w)$"
    conventions = ("detectron", "detectron_pytorch")
    background_first = True
    bgr = True
    ignored = r"_momentum$|^(conv1|res\d_\d+_branch\w+?)(?<!_[bg]n)_b$|^(fc1000|pred)_[wb]$|^kps_score_[wb]$"
    rules: ClassVar = (
        (r"^conv1_(w)$", _blob("backbone.conv1.")),
        (r"^(?:res_conv1_bn|conv1_gn)_([sb])$", _blob("backbone.bn1.")),
        (r"^(?:_\[mask\]_)res5_", "mask_res5_"),
        (r"^res([2-5])_(\d+)_", lambda found: f"backbone.layer{int(found[1]) - 1}.{found[2]}."),
        (r"^mask_res5_(\d+)_", r"mask_head.layer4.\1."),
        (r"branch1_(w)$", _blob("downsample.0.")),
        (r"branch1_[bg]n_([sb])$", _blob("downsample.1.")),
        (r"branch2([abc])_(w)$", lambda found: f"conv{_number(found[1])}.weight"),
        (r"branch2([abc])_[bg]n_([sb])$", lambda found: f"bn{_number(found[1])}.{_LEAF[found[2]]}"),
        (r"^fpn_inner_res([2-5])_\d+_sum(?:_lateral)?_", lambda found: f"neck.lateral_convs.{int(found[1]) - 2}_"),
        (r"^fpn_res([2-5])_\d+_sum_", lambda found: f"neck.fpn_convs.{int(found[1]) - 2}_"),
        (r"^conv_rpn(?:_fpn2)?_([wb])$", _blob("rpn.convs.0.conv.")),
        (r"^rpn_(cls_logits|bbox_pred)(?:_fpn2)?_([wb])$", _blob(r"rpn.\1.")),
        (r"^fc([67])_([wb])$", lambda found: f"box_head.fc{int(found[1]) - 5}.{_LEAF[found[2]]}"),
        (r"^head_conv(\d+)_", lambda found: f"box_head.convs.{int(found[1]) - 1}_"),
        (r"^(cls_score|bbox_pred)_([wb])$", _blob(r"box_head.\1.")),
        (r"^_\[?mask\]?_fcn(\d+)_", lambda found: f"mask_head.convs.{int(found[1]) - 1}_"),
        (r"^conv5_mask_([wb])$", _blob("mask_head.upsample.")),
        (r"^mask_fcn_logits_([wb])$", _blob("mask_head.mask_logits.")),
        (r"^conv_fcn(\d+)_", lambda found: f"keypoint_head.convs.{int(found[1]) - 1}_"),
        (r"^kps_score_lowres_([wb])$", _blob("keypoint_head.score_lowres.")),
        (r"(convs\.\d+)_gn_([sb])$", _blob(r"\1.bn.")),
        (r"(convs\.\d+)_([wb])$", _blob(r"\1.conv.")),
    )


def _number(letter: str) -> int:
    return "abc".index(letter) + 1


class DetectronPyTorch(DetectorFormat):
    """Detectron.pytorch's names: ``Conv_Body``, ``RPN``, ``Box_Head``, ``Box_Outs`` and so on."""

    mark = r"^Conv_Body\."
    conventions = ("detectron_pytorch", "detectron")
    background_first = True
    bgr = True
    ignored = r"^Keypoint_Outs\.upsample\.|^Mask_Head\.res5\.|num_batches_tracked$"
    """The fixed kernel that doubles keypoint maps, and the second name of the stage that box and mask head share."""
    rules: ClassVar = (
        (r"^Conv_Body\.(?:conv_body\.)?res1\.", "backbone."),
        (r"^Conv_Body\.(?:conv_body\.)?res([2-5])\.", lambda found: f"backbone.layer{int(found[1]) - 1}."),
        (r"^(Box|Mask)_Head\.res5\.", lambda found: f"{found[1].lower()}_head.layer4."),
        (r"^Conv_Body\.conv_top\.", "neck.lateral_convs.3."),
        (r"^Conv_Body\.topdown_lateral_modules\.(\d)\.conv_lateral\.",
         lambda found: f"neck.lateral_convs.{2 - int(found[1])}."),
        (r"^Conv_Body\.posthoc_modules\.(\d)\.", lambda found: f"neck.fpn_convs.{3 - int(found[1])}."),
        (r"^RPN\.(?:FPN_)?RPN_conv\.", "rpn.convs.0.conv."),
        (r"^RPN\.(?:FPN_)?RPN_cls_score\.", "rpn.cls_logits."),
        (r"^RPN\.(?:FPN_)?RPN_bbox_pred\.", "rpn.bbox_pred."),
        (r"^Box_Head\.fc\.", "box_head.fc1."),
        (r"^Box_(?:Head|Outs)\.", "box_head."),
        (r"^(Mask|Keypoint)_Head\.conv_fcn\.", lambda found: f"{found[1].lower()}_head.convs."),
        (r"^Mask_Head\.upconv5?\.", "mask_head.upsample."),
        (r"^Mask_Outs\.classify\.", "mask_head.mask_logits."),
        (r"^Keypoint_Outs\.classify\.", "keypoint_head.score_lowres."),
        (r"^neck\.(\w+)\.(\d)\.(?:0\.)?(weight|bias)$", r"neck.\1.\2.conv.\3"),
        (r"^neck\.(\w+)\.(\d)\.1\.", r"neck.\1.\2.bn."),
    )  # fmt: skip

    def rename(self, key: str, weights: Weights) -> str:
        name = super().rename(key, weights)
        found = re.fullmatch(r"((?:box|mask|keypoint)_head\.convs)\.(\d+)\.(\w+)", name)
        if not found:
            return name
        # A sequence of convolution, ReLU, or of convolution, norm, ReLU: then the second layer has weights, too.
        steps = 3 if re.sub(r"\.\d+\.\w+$", ".1.weight", key) in weights else 2
        index, step = divmod(int(found[2]), steps)
        return f"{found[1]}.{index}.{('conv', 'bn')[step]}.{found[3]}"


class CaffeBody(WeightFormat):
    """The names of `DetectionResNet`, trained on images with the channels blue, green, red: ``resnet50_caffe.pth``.

    It cannot be recognised by its names, so it must be given: ``CaffeBody::resnet50_caffe.pth``.
    """

    values_only: ClassVar = (DetectionResNet,)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        return {key: value.flip(1) if key == "conv1.weight" else value for key, value in weights.items()}


class DetectronModelPickle(WeightFormat):
    """Reads pickles of arrays as Python 2 wrote them; anything but arrays and plain values is refused, and never run.

    Not used where segplug-backbones is installed, whose reader takes the same files.
    """

    suffixes: ClassVar = () if importlib.util.find_spec("segplug_backbones") else (".pkl",)

    def read(self, path: Path) -> Mapping[str, Tensor]:
        try:
            with open(path, "rb") as file:
                content = _ArrayUnpickler(file, encoding="latin1").load()
            for level in ("blobs", "model"):  # of Detectron and of detectron2; ImageNet files have no level
                content = content.get(level, content)
            return {name: torch.from_numpy(np.asarray(value)) for name, value in content.items() if _is_array(value)}
        except _RefusedError as error:
            message = f"asks for {str(error)!r}, which is code and not weights; nothing in it was run"
            raise CheckpointError(f"{path}: refused: it {message}") from error
        except Exception as error:  # a damaged file can make the unpickler fail in any way
            raise CheckpointError(f"{path}: is damaged or not a pickle of arrays: {error}") from error


class _RefusedError(pickle.UnpicklingError):
    """A pickle asks for something that is not an array."""


class _ArrayUnpickler(pickle.Unpickler):
    """Finds what arrays and numbers of NumPy are made of, and refuses every other class and function."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"multiarray": ("_reconstruct", "scalar"), "numpy": ("ndarray", "dtype"), "_codecs": ("encode",)}
        package, _, last = module.rpartition(".")
        known = package in ("", "numpy.core", "numpy._core") and name in allowed.get(last, ())
        if not known or (last == "multiarray") != bool(package):
            raise _RefusedError(f"{module}.{name}")
        return super().find_class("numpy._core.multiarray" if package else module, name)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf"
