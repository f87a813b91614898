"""Models that segmentation_models_pytorch has saved: `segmentor` makes a model of the arguments in ``config.json``.

Encoders are those of torchvision, EfficientNet-PyTorch, SegFormer and, by their names with ``tu-``, timm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from segkernel.errors import ConfigError, Problem, suggest

Arguments = Mapping[str, Any]
DEFAULTS: dict[str, Any] = {
    "encoder_name": "resnet34",
    "encoder_depth": 5,
    "decoder_use_norm": "batchnorm",
    "decoder_channels": (256, 128, 64, 32, 16),
    "in_channels": 3,
    "classes": 1,
}
OF_MODEL: dict[str, dict[str, Any]] = {
    "Unet": {},
    "UnetPlusPlus": {},
    "MAnet": {},
    "Linknet": {},
    "PAN": {"decoder_channels": 32, "encoder_output_stride": 16},
    "FPN": {"decoder_dropout": 0.2},
    "DeepLabV3": {"decoder_channels": 256, "encoder_output_stride": 8},
    "DeepLabV3Plus": {"decoder_channels": 256, "encoder_output_stride": 16},
    "PSPNet": {"encoder_depth": 3, "psp_dropout": 0.2},
    "UPerNet": {"decoder_channels": 256},
    "Segformer": {},
    "DPT": {"encoder_name": "tu-vit_base_patch16_224.augreg_in21k", "encoder_depth": 4},
}
"""Defaults of each model that differ from `DEFAULTS`."""
EFFICIENTNET_SIZES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}
"""Side in pixels of the images that EfficientNet-PyTorch computes its paddings for."""
MIT = {"b0": (32, [2, 2, 2, 2]), "b1": (64, [2, 2, 2, 2]), "b2": (64, [3, 4, 6, 3]), "b3": (64, [3, 4, 18, 3]),
       "b4": (64, [3, 8, 27, 3]), "b5": (64, [3, 6, 40, 3])}  # fmt: skip
"""Channels per head and layers of each stage."""
VIT = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Channels, layers and heads."""
ENCODERS = (
    "resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x4d, resnext101_32x8d, "
    "resnext101_32x16d, resnext101_32x32d, resnext101_32x48d, vgg11 to vgg19 (_bn), mobilenet_v2, efficientnet-b0 to "
    "b7, timm-efficientnet-b0 to b8, mit_b0 to mit_b5, and any of timm as tu-NAME"
)


def segmentor(config: Arguments) -> dict[str, Any]:
    """Return the model of the arguments that a model was saved with.

    Args:
        config: Content of ``config.json``; ``_model_class`` is the class in segmentation_models_pytorch.

    Raises:
        ConfigError: The class, its encoder or an argument has no counterpart here.
    """
    name = config.get("_model_class")
    if name not in OF_MODEL:
        hint = suggest(str(name), OF_MODEL) or f"supported: {', '.join(OF_MODEL)}"
        raise ConfigError(Problem(f"{name!r} is no model of segmentation_models_pytorch", "_model_class", hint=hint))
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    values = {**DEFAULTS, **OF_MODEL[name], **given}
    for former in ("decoder_use_batchnorm", "psp_use_batchnorm"):
        values["decoder_use_norm"] = values.get(former) if former in given else values["decoder_use_norm"]
    head = {"num_classes": "${data.num_classes}", "dropout_ratio": 0.0, "norm_cfg": _norm(values["decoder_use_norm"])}
    head |= HEADS[name](values)
    if values["encoder_depth"] not in (3, 4, 5):
        raise ConfigError(Problem(f"{values['encoder_depth']} is not 3, 4 or 5", "encoder_depth"))
    backbone = _vision_transformer(values) if name == "DPT" else _backbone(values)
    model: dict[str, Any] = {"type": "PyramidEncoderDecoder", "backbone": backbone, "decode_head": head}
    if name == "DPT":
        model["type"] = "EncoderDecoder"
    else:
        model["encoder_depth"] = values["encoder_depth"]
    if values.get("aux_params"):
        width = {"in_channels": _vit_of(values)[0]} if name == "DPT" else {}
        model["auxiliary_head"] = _image_classes(values["aux_params"]) | width
    return model


def data(config: Arguments) -> dict[str, Any]:
    """Return ``task`` and ``preprocess``: images are RGB between 0 and 1, normalised as on ImageNet.

    One channel is a binary map. Several channels are classes that exclude each other, unless ``activation`` is sigmoid.
    """
    classes = config.get("classes", DEFAULTS["classes"])
    channels = config.get("in_channels", DEFAULTS["in_channels"])
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    if channels != 3:
        mean, std = [0.0] * channels, [255.0] * channels
    found: dict[str, Any] = {"preprocess": {"mean": mean, "std": std}}
    if classes == 1:
        found["task"] = "binary"
    elif config.get("activation") == "sigmoid":
        found["task"] = "multilabel"
    return found


# ---------------------------------------------------------------- heads


def _unet(values: Arguments) -> dict[str, Any]:
    return {
        "type": "UNetHead",
        **_decoder(values),
        "attention_type": values.get("decoder_attention_type"),
        "center_block": values["encoder_name"].startswith("vgg"),
    }


def _unet_plus_plus(values: Arguments) -> dict[str, Any]:
    return {
        "type": "UNetPlusPlusHead",
        **_decoder(values),
        "attention_type": values.get("decoder_attention_type"),
    }


def _manet(values: Arguments) -> dict[str, Any]:
    return {"type": "MAnetHead", **_decoder(values), "pab_channels": values.get("decoder_pab_channels", 64)}


def _decoder(values: Arguments) -> dict[str, Any]:
    return {
        "decoder_channels": list(values["decoder_channels"]),
        "interpolate_mode": values.get("decoder_interpolation", "nearest"),
    }


def _linknet(values: Arguments) -> dict[str, Any]:
    return {"type": "LinknetHead"}


def _pan(values: Arguments) -> dict[str, Any]:
    return {
        "type": "PANHead",
        "channels": values["decoder_channels"],
        "interpolate_mode": values.get("upscale_mode", values.get("decoder_interpolation", "bilinear")),
        "norm_cfg": _norm(True),
        "upsampling": values.get("upsampling", 4),
    }


def _fpn(values: Arguments) -> dict[str, Any]:
    return {
        "type": "PanopticFPNHead",
        "pyramid_channels": values.get("decoder_pyramid_channels", 256),
        "segmentation_channels": values.get("decoder_segmentation_channels", 128),
        "merge_policy": values.get("decoder_merge_policy", "add"),
        "interpolate_mode": values.get("decoder_interpolation", "nearest"),
        "dropout_ratio": values["decoder_dropout"],
        "norm_cfg": {"type": "GN", "num_groups": 32},
        "upsampling": values.get("upsampling", 4),
    }


def _deeplabv3(values: Arguments) -> dict[str, Any]:
    stride = values["encoder_output_stride"] if values["encoder_depth"] > 3 else 8
    return {"type": "DeepLabV3Head", **_aspp(values, False), "upsampling": values.get("upsampling") or stride}


def _deeplabv3plus(values: Arguments) -> dict[str, Any]:
    return {"type": "DeepLabV3PlusHead", **_aspp(values, True), "upsampling": values.get("upsampling", 4)}


def _aspp(values: Arguments, separable: bool) -> dict[str, Any]:
    return {
        "channels": values["decoder_channels"],
        "atrous_rates": list(values.get("decoder_atrous_rates", (12, 24, 36))),
        "aspp_separable": values.get("decoder_aspp_separable", separable),
        "aspp_dropout": values.get("decoder_aspp_dropout", 0.5),
        "norm_cfg": _norm(True),
    }


def _pspnet(values: Arguments) -> dict[str, Any]:
    return {
        "type": "PSPNetHead",
        "channels": values.get("psp_out_channels", 512),
        "dropout_ratio": values["psp_dropout"],
        "upsampling": values.get("upsampling", 8),
    }


def _upernet(values: Arguments) -> dict[str, Any]:
    return {
        "type": "UPerHead",
        "channels": values["decoder_channels"],
        "feature_norm": True,
        "bottleneck_norm_cfg": _norm(True),
        "upsampling": values.get("upsampling", 4),
    }


def _segformer(values: Arguments) -> dict[str, Any]:
    return {
        "type": "SegformerHead",
        "channels": values.get("decoder_segmentation_channels", 256),
        "linear_projection": True,
        "norm_cfg": _norm(True),
        "upsampling": values.get("upsampling", 4),
    }


def _dpt(values: Arguments) -> dict[str, Any]:
    width, patch = _vit_of(values)[0], _vit_of(values)[3]
    readout = {"cat": "project"}.get(values.get("decoder_readout", "cat"), values.get("decoder_readout"))
    return {
        "type": "DPTHead",
        "in_channels": [width] * 4,
        "in_index": [0, 1, 2, 3],
        "input_transform": "multiple_select",
        "embed_dims": width,
        "channels": values.get("decoder_fusion_channels", 256),
        "post_process_channels": list(values.get("decoder_intermediate_channels", (256, 512, 1024, 1024))),
        "readout_type": readout,
        "feature_stride": patch,
        "refine_coarsest": True,
        "dropout_ratio": 0.1,
        "norm_cfg": _norm(True),
        "upsample_logits": True,
    }


HEADS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    "Unet": _unet,
    "UnetPlusPlus": _unet_plus_plus,
    "MAnet": _manet,
    "Linknet": _linknet,
    "PAN": _pan,
    "FPN": _fpn,
    "DeepLabV3": _deeplabv3,
    "DeepLabV3Plus": _deeplabv3plus,
    "PSPNet": _pspnet,
    "UPerNet": _upernet,
    "Segformer": _segformer,
    "DPT": _dpt,
}


def _image_classes(values: Arguments) -> dict[str, Any]:
    return {
        "type": "ImageClassHead",
        "num_classes": values["classes"],
        "pooling": values.get("pooling", "avg"),
        "dropout_ratio": values.get("dropout", 0.2),
    }


def _norm(use_norm: Any) -> dict[str, Any] | None:
    """Return ``norm_cfg`` for ``decoder_use_norm``."""
    given = {"type": use_norm} if isinstance(use_norm, str) else use_norm
    if given is True:
        given = {"type": "batchnorm"}
    if given is False or given["type"] == "identity":
        return None
    types = {"batchnorm": "BN", "instancenorm": "IN"}
    if given["type"] not in types:  # their layer norm is over the image's columns
        hint = f"supported: {', '.join(types)}, identity"
        raise ConfigError(Problem(f"{given['type']!r} is not supported", "decoder_use_norm", hint=hint))
    return {**given, "type": types[given["type"]]}


# ---------------------------------------------------------------- encoders


def _backbone(values: Arguments) -> dict[str, Any]:
    name, depth, stride = values["encoder_name"], values["encoder_depth"], values.get("encoder_output_stride", 32)
    for pattern, build in BACKBONES.items():
        if found := re.fullmatch(pattern, name):
            return {**build(found, depth, stride), "in_channels": values["in_channels"]}
    raise ConfigError(Problem(f"the encoder {name!r} is not supported", "encoder_name", hint=f"supported: {ENCODERS}"))


def _resnet(found: re.Match[str], depth: int, stride: int) -> dict[str, Any]:
    stages = depth - 1
    backbone: dict[str, Any] = {"type": "ResNet", "depth": int(found["depth"]), "out_stem": True, "num_stages": stages}
    if groups := found.groupdict().get("groups"):
        backbone |= {"type": "ResNeXt", "groups": int(groups), "base_width": int(found["width"])}
    layout = {"strides": [1, 2, 2, 2][:stages], "dilations": [1] * stages, "out_indices": list(range(stages))}
    return {**backbone, **layout, "output_stride": stride}


def _vgg(found: re.Match[str], depth: int, stride: int) -> dict[str, Any]:
    if stride != 32:
        raise ConfigError(Problem(f"{found[0]} cannot be dilated", "encoder_output_stride"))
    norm_cfg = {"type": "BN"} if found["norm"] else None
    return {"type": "VGG", "depth": int(found["depth"]), "norm_cfg": norm_cfg}  # maps by its own `pyramid`


def _mobilenet_v2(found: re.Match[str], depth: int, stride: int) -> dict[str, Any]:
    return {"type": "MobileNetV2", "out_indices": [0, 1, 2, 4, 7][:depth], "output_stride": stride}


def _efficientnet(found: re.Match[str], depth: int, stride: int) -> dict[str, Any]:
    backbone = {"type": "EfficientNet", "arch": found["arch"], "out_indices": [0, 2, 3, 4, 5][:depth]}
    backbone |= {"output_stride": stride, "drop_path_rate": 0.2}
    if found["timm"]:
        return {**backbone, "conv_cfg": None, "norm_cfg": {"type": "BN", "eps": 1e-5}}
    backbone["padding_size"] = EFFICIENTNET_SIZES[found["arch"]]
    return backbone | ({"arch": "b0-smp"} if found["arch"] == "b0" else {})


def _mit(found: re.Match[str], depth: int, stride: int) -> dict[str, Any]:
    width, layers = MIT[found["size"]]
    stages = depth - 1
    return {
        "type": "MixVisionTransformer",
        "embed_dims": width,
        "num_stages": stages,
        "num_layers": layers[:stages],
        "num_heads": [1, 2, 5, 8][:stages],
        "patch_sizes": [7, 3, 3, 3][:stages],
        "strides": [4, 2, 2, 2][:stages],
        "sr_ratios": [8, 4, 2, 1][:stages],
        "out_indices": list(range(stages)),
        "drop_path_rate": 0.1,
        "embed_norm_cfg": {"type": "LN", "eps": 1e-5},
        "output_stride": stride,
    }


def _timm(found: re.Match[str], depth: int, stride: int) -> dict[str, Any]:
    dilated = {} if stride == 32 else {"output_stride": stride}
    return {"type": "TIMMBackbone", "model_name": found["name"], "pretrained": False, **dilated}


BACKBONES: dict[str, Callable[[re.Match[str], int, int], dict[str, Any]]] = {
    r"resnet(?P<depth>18|34|50|101|152)": _resnet,
    r"resnext(?P<depth>50|101)_(?P<groups>32)x(?P<width>4|8|16|32|48)d": _resnet,
    r"vgg(?P<depth>11|13|16|19)(?P<norm>_bn)?": _vgg,
    r"mobilenet_v2": _mobilenet_v2,
    r"(?P<timm>)efficientnet-(?P<arch>b[0-7])": _efficientnet,
    r"(?P<timm>timm-)efficientnet-(?P<arch>b[0-8]|l2)": _efficientnet,
    r"mit_(?P<size>b[0-5])": _mit,
    r"tu-(?P<name>.+)": _timm,
}


def _vision_transformer(values: Arguments) -> dict[str, Any]:
    width, layers, heads, patch, size = _vit_of(values)
    count = values["encoder_depth"]
    chosen = values.get("encoder_output_indices") or [layers * i // count - 1 for i in range(1, count + 1)]
    if len(chosen) != 4:
        raise ConfigError(Problem(f"{len(chosen)} maps, only 4 are supported", "encoder_depth"))
    return {
        "type": "VisionTransformer",
        "img_size": size,
        "patch_size": patch,
        "in_channels": values["in_channels"],
        "embed_dims": width,
        "num_layers": layers,
        "num_heads": heads,
        "out_indices": [index % layers for index in chosen],
        "output_cls_token": True,
        "patch_bias": True,
        "norm_cfg": {"type": "LN", "eps": 1e-6},
        "interpolate_antialias": True,
    }


def _vit_of(values: Arguments) -> tuple[int, int, int, int, int]:
    """Return channels, layers, heads, patch size and image size of a ViT by timm's name."""
    name = values["encoder_name"]
    found = re.fullmatch(r"tu-vit_(tiny|small|base|large)_patch(8|16|32)_(\d+)(\..+)?", name)
    if found is None:
        hint = "supported: tu-vit_SIZE_patchPATCH_PIXELS, SIZE tiny, small, base or large, PATCH 8, 16 or 32"
        raise ConfigError(Problem(f"the encoder {name!r} is not supported by DPT", "encoder_name", hint=hint))
    return (*VIT[found[1]], int(found[2]), int(values.get("img_size") or found[3]))
