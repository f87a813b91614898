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
