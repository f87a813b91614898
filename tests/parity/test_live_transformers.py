"""Folders used by transformers and by this framework: the same pixels go in, and the same come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hugging_face import IMAGENET, folder_of, model_of

from segkernel import Predictor
from segkernel.loading import load_model

transformers = pytest.importorskip("transformers")
pytest.importorskip("PIL")
pytestmark = pytest.mark.slow

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SEGFORMER = {"image_processor_type": "SegformerImageProcessor", "size": {"height": 96, "width": 128}, **IMAGENET}
DPT = {"image_processor_type": "DPTImageProcessor", **HALF}
MOBILE = {"do_center_crop": False, "size": {"shortest_edge": 96}}
PROCESSORS: dict[str, dict[str, Any]] = {
    "segformer": SEGFORMER,
    "size of one number": SEGFORMER | {"size": 64},
    "no resize": SEGFORMER | {"do_resize": False},
    "no normalisation": SEGFORMER | {"do_normalize": False},
    "no rescaling": SEGFORMER | {"do_rescale": False},
    "bicubic": SEGFORMER | {"resample": 3},
    "only the type": {"image_processor_type": "SegformerImageProcessor"},
    "beit": {"image_processor_type": "BeitImageProcessor", "size": {"height": 64, "width": 64}},
    "dpt": DPT | {"size": {"height": 64, "width": 64}},
    "dpt aspect": DPT | {"size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14},
    "dpt multiple": DPT | {"size": {"height": 70, "width": 90}, "ensure_multiple_of": 32},
    "mobilevit": MOBILE | {"image_processor_type": "MobileViTImageProcessor"},
    "mobilenet": MOBILE | {"image_processor_type": "MobileNetV2ImageProcessor"},
}
SIZES = [(70, 90), (150, 101), (100, 100)]


def photo(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


@pytest.mark.parametrize("name", PROCESSORS)
def test_image_processors(name: str, tmp_path: Path) -> None:
    folder = folder_of(model_of("segformer_b0_hf")[0], tmp_path, PROCESSORS[name])
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    predictor = Predictor(folder, device="cpu", optimize=False)
    for size in SIZES:
        theirs = processor(images=photo(*size), return_tensors="pt")["pixel_values"]
        ours = predictor.example(photo(*size))
        assert ours.shape == theirs.shape, size
        # Two grey levels of 255: Pillow may scale rows before columns, which rounds otherwise.
        assert float((ours - theirs).abs().max()) <= 2.1 * level(PROCESSORS[name]), size
        assert float((ours - theirs).abs().mean()) < 0.2 * level(PROCESSORS[name]), size


def level(processor: dict[str, Any]) -> float:
    """Return one grey level in units of the model's input."""
    scale = 1.0 if processor.get("do_rescale") is False else 1 / 255
    std = processor.get("image_std", [0.5])
    return scale / (1 if processor.get("do_normalize") is False else min(std))


@pytest.mark.parametrize(
    ("name", "processor"),
    [
        ("segformer_b0_hf", SEGFORMER),
        (
            "beit_tiny_semantic_hf",
            PROCESSORS["beit"] | {"size": {"height": 96, "width": 128}},
        ),  # not those of its biases
        ("mobilevit_xxs_deeplabv3_hf", PROCESSORS["mobilevit"]),
        ("mobilenetv2_100_deeplabv3_hf", PROCESSORS["mobilenet"]),
        ("dpt_small_semantic_hf", DPT | {"size": {"height": 128, "width": 128}}),
    ],
)
def test_labels(name: str, processor: dict[str, Any], tmp_path: Path) -> None:
    case, _ = model_of(name)
    folder = folder_of(case, tmp_path, processor)
    image = photo(*SIZES[0])
    theirs = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    prepared = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = theirs(**prepared(images=image, return_tensors="pt"))
    labels = prepared.post_process_semantic_segmentation(outputs, target_sizes=[SIZES[0]])[0]
    ours = Predictor(folder, device="cpu")(image).labels
    assert float((ours == labels).float().mean()) > 0.999


def test_depths(tmp_path: Path) -> None:
    case, _ = model_of("dpt_tiny_depth_hf")
    folder = folder_of(case, tmp_path, DPT | {"size": {"height": 128, "width": 128}})
    image = photo(*SIZES[0])
    theirs = transformers.AutoModelForDepthEstimation.from_pretrained(folder).eval()
    prepared = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = theirs(**prepared(images=image, return_tensors="pt"))
    depths = prepared.post_process_depth_estimation(outputs, target_sizes=[SIZES[0]])[0]["predicted_depth"]
    ours = Predictor(folder, device="cpu")(image).labels
    assert torch.allclose(ours, depths, atol=2e-4 * float(depths.max()))


STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN = {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 5, "out_features": STAGES}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "out_features": STAGES}
DINOV2 = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
          "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False}  # fmt: skip
NECK = {"neck_hidden_sizes": [8, 16, 24, 32], "fusion_hidden_size": 16}
VIT = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 96, "image_size": 64,
       "backbone_out_indices": [0, 1, 2, 3], **NECK}  # fmt: skip
UPERNET = {"hidden_size": 16, "auxiliary_channels": 8}
MOBILEVIT = {"hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 64], "expand_ratio": 2.0}
VARIANTS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "segformer": ("Segformer", {"hidden_sizes": [16, 32, 80, 128], "depths": [1, 2, 1, 1]}, (96, 130)),
    "upernet, swin": ("UperNet", UPERNET | {"backbone_config": ("Swin", SWIN), "pool_scales": [1, 2]}, (70, 101)),
    "upernet, convnext": ("UperNet", UPERNET | {"backbone_config": ("ConvNext", CONVNEXT)}, (96, 128)),
    "upernet, convnextv2": ("UperNet", UPERNET | {"backbone_config": ("ConvNextV2", CONVNEXT)}, (96, 128)),
    "dpt, norms": ("DPT", VIT | {"readout_type": "add", "use_batch_norm_in_fusion_residual": True}, (112, 112)),
    "depth, odd grid": ("DPTDepth", VIT | {"readout_type": "ignore"}, (112, 112)),
    "depth, dinov2": (
        "DPTDepth", NECK | {"backbone_config": ("Dinov2", DINOV2), "add_projection": True, "fusion_hidden_size": 256},
        (70, 70),
    ),
    "metric depth": (
        "DepthAnythingDepth",
        NECK | {"backbone_config": ("Dinov2", DINOV2), "reassemble_hidden_size": 48, "max_depth": 20,
                "depth_estimation_type": "metric"},
        (70, 98),
    ),
    "mobilenet, narrow": ("MobileNetV2", {"depth_multiplier": 0.35, "output_stride": 32}, (97, 130)),
    "mobilenet, dilated": ("MobileNetV2", {"output_stride": 8, "tf_padding": False}, (96, 128)),
    "mobilevit": ("MobileViT", MOBILEVIT | {"num_attention_heads": 2}, (128, 192)),
    "mobilevit, odd": ("MobileViT", MOBILEVIT | {"output_stride": 16}, (113, 161)),
    "mobilevitv2": ("MobileViTV2", {"width_multiplier": 0.75, "output_stride": 8}, (64, 128)),
}  # fmt: skip
"""Names in transformers, arguments of configs, sizes of images. A nested config is (name, arguments)."""


@pytest.mark.parametrize("name", VARIANTS)
def test_other_sizes_and_arguments(name: str, tmp_path: Path) -> None:
    family, values, size = VARIANTS[name]
    nested = {
        key: getattr(transformers, f"{value[0]}Config")(**value[1])
        for key, value in values.items()
        if isinstance(value, tuple)
    }
    task = "ForDepthEstimation" if family.endswith("Depth") else "ForSemanticSegmentation"
    family = family.removesuffix("Depth")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**values | nested, num_labels=5)
    theirs = getattr(transformers, f"{family}{task}")(config).eval()
    scatter(theirs)
    theirs.save_pretrained(tmp_path)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        outputs = theirs(images)
        raw = load_model(tmp_path).model.eval()(images)
    expected = outputs.logits if "logits" in outputs else outputs.predicted_depth[:, None]
    if raw.shape != expected.shape:  # UPerNet resizes its logits
        raw = torch.nn.functional.interpolate(raw, expected.shape[-2:], mode="bilinear")
    assert float((raw - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


def scatter(model: torch.nn.Module) -> None:
    """Draw weights with which every layer matters, and statistics other than those of fresh norms."""
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.ndim >= 2 and "position" not in name and value.is_floating_point():
                value.normal_(0, value[0].numel() ** -0.5)
            elif value.is_floating_point():
                value.add_(torch.randn_like(value) * 0.1)
