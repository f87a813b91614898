"""Image processors of transformers as transforms and normalisation.

An image is resized by `PillowResize`. One that is cut to its centre is only resized here: predictions cover the whole
image, and transforms of evaluation may only resize.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.values import only, unsupported

log = logging.getLogger(__name__)

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)
RESAMPLE = {NEAREST: "nearest", LANCZOS: "lanczos", BILINEAR: "bilinear", BICUBIC: "bicubic", BOX: "box"}
RESAMPLE |= {HAMMING: "hamming"}
"""Pillow's numbers of its filters."""
RESCALE = 1 / 255

PROCESSORS: dict[str, dict[str, Any]] = {
    "Segformer": {"size": {"height": 512, "width": 512}, "resample": BILINEAR, **IMAGENET},
    "Beit": {"size": {"height": 224, "width": 224}, "resample": BICUBIC, **HALF},
    "DPT": {"size": {"height": 384, "width": 384}, "resample": BICUBIC, **HALF},
    "MobileViT": {"size": {"shortest_edge": 224}, "resample": BICUBIC, "do_normalize": False,
                  "do_flip_channel_order": True},
    "MobileNetV2": {"size": {"shortest_edge": 256}, "resample": BILINEAR, **HALF},
    "ViT": {"size": {"height": 224, "width": 224}, "resample": BILINEAR, **HALF},
    "Mask2Former": {"size": {"shortest_edge": 800, "longest_edge": 1333}, "size_divisor": 32, "resample": BILINEAR,
                    **IMAGENET},
    "OneFormer": {"size": {"shortest_edge": 800, "longest_edge": 1333}, "resample": BILINEAR, **IMAGENET},
    "Eomt": {"size": {"shortest_edge": 640, "longest_edge": 640}, "resample": BILINEAR, **IMAGENET},
}  # fmt: skip
"""What a processor does unless its file says otherwise, by its type without ImageProcessor."""
OF_MODEL = {
    "segformer": "Segformer",
    "upernet": "Segformer",
    "beit": "Beit",
    "data2vec-vision": "Beit",
    "dpt": "DPT",
    "depth_anything": "DPT",
    "mobilevit": "MobileViT",
    "mobilevitv2": "MobileViT",
    "mobilenet_v2": "MobileNetV2",
    "mask2former": "Mask2Former",
    "oneformer": "OneFormer",
    "eomt": "Eomt",
    "eomt_dinov3": "Eomt",
}
"""The processor of each ``model_type``, for a folder without ``preprocessor_config.json``."""
SQUARE = ("Segformer", "Beit", "DPT", "ViT")
"""Processors for which one number is the side of a square, not the shorter edge."""

Preprocessing = tuple[dict[str, Any], list[dict[str, Any]]]


def preprocessing_of(processor: Mapping[str, Any] | None, model_type: str) -> Preprocessing:
    """Return ``data.preprocess`` and ``data.eval_transforms``.

    Args:
        processor: Content of ``preprocessor_config.json``; None takes the defaults of the model's processor.
        model_type: The model's.

    Raises:
        ConfigError: A value has no counterpart here.
    """
    if processor is None:
        log.warning("no preprocessor_config.json: images are processed as %s models usually are", model_type)
        processor = {}
    given = processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    name = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", given)
    name = name or OF_MODEL.get(model_type, "")
    if name not in PROCESSORS:
        raise unsupported(
            "image_processor_type", given, f"supported: {', '.join(PROCESSORS)}, each with ImageProcessor"
        )
    values = PROCESSORS[name] | {key: value for key, value in processor.items() if value is not None}
    only(values, do_pad=False)
    return _normalisation(values), [_resize(values, name)] if values.get("do_resize", True) else []


def _normalisation(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return mean and standard deviation in units of the file: pixels are (x * rescale - mean) / std."""
    scale = values.get("rescale_factor", RESCALE) if values.get("do_rescale", True) else 1.0
    normalizes = values.get("do_normalize", True)
    mean, std = (values["image_mean"], values["image_std"]) if normalizes else ([0.0] * 3, [1.0] * 3)
    preprocess = {name: [round(each / scale, 10) for each in part] for name, part in (("mean", mean), ("std", std))}
    return preprocess | ({"channel_order": "bgr"} if values.get("do_flip_channel_order") else {})


def _resize(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    size = values["size"]
    if isinstance(size, int):
        size = {"height": size, "width": size} if name in SQUARE else {"shortest_edge": size}
    resize: dict[str, Any] = {"type": "PillowResize", "resample": RESAMPLE[values["resample"]]}
    if "height" in size:
        resize["size"] = [size["height"], size["width"]]
        if values.get("keep_aspect_ratio"):
            resize["keep_aspect_ratio"] = True
        if values.get("ensure_multiple_of", 1) != 1:
            resize["multiple_of"] = values["ensure_multiple_of"]
    elif "shortest_edge" in size:
        resize["shortest_edge"] = size["shortest_edge"]
        if longest := size.get("longest_edge") or values.get("max_size"):
            resize["longest_edge"] = longest
    else:
        raise unsupported("size", size, "height and width, or shortest_edge")
    if values.get("size_divisor"):
        resize["size_divisor"] = values["size_divisor"]
    if values.get("do_center_crop"):
        log.info("the whole image is predicted, not its centre of %s", values.get("crop_size"))
    return resize
