"""Folders that transformers has saved, used like any other model: predict, show, test, export, fine-tune."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hugging_face import IMAGENET, folder_of, model_of
from PIL import Image
from torch.nn import functional as F

from segkernel import Predictor
from segkernel.config import load_config
from segkernel.errors import CheckpointError, ConfigError
from segkernel.weights import load_into

PROCESSOR = {
    "image_processor_type": "SegformerImageProcessor",
    "size": {"height": 96, "width": 128},
    "resample": 2,
    "rescale_factor": 1 / 255,
    "do_reduce_labels": True,
    **IMAGENET,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case, _ = model_of("segformer_b0_hf")
    path = folder_of(case, tmp_path_factory.mktemp("hub") / "segformer-b0", PROCESSOR)
    (path / "README.md").write_text("---\nlicense: other\nlicense_name: nvidia\n---\n# SegFormer\n")
    return path


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


def test_a_folder_predicts_the_pixels_of_transformers(folder: Path, photo: np.ndarray) -> None:
    predictor = Predictor(folder, device="cpu")
    pixels = np.asarray(Image.fromarray(photo).resize((128, 96), Image.Resampling.BILINEAR), np.float32) / 255
    pixels = (pixels - np.float32(IMAGENET["image_mean"])) / np.float32(IMAGENET["image_std"])
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    assert torch.allclose(predictor.example(photo), images, atol=1e-5)
    case, model = model_of("segformer_b0_hf")
    with torch.no_grad():
        logits = F.interpolate(case.load_into(model)(images), (70, 90), mode="bilinear", align_corners=False)
    assert (predictor(photo).labels == logits.argmax(1)[0]).float().mean() > 0.999
    assert predictor.classes[3] == "class 3"


def test_the_config_of_a_folder(folder: Path) -> None:
    config = load_config(str(folder))
    assert config["data"]["num_classes"] == 19
    assert config["load_from"] == str(folder / "model.safetensors")
    assert config.meta["licence"] == "nvidia"
    assert config.meta["reduce_zero_label"] is True


def test_a_folder_is_a_base_to_fine_tune_from(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"_base_: {folder}\ndata: {{num_classes: 4}}\n")
    config = load_config(path)
    from segkernel.loading import make_model

    model = make_model(config)
    _, report = load_into(model, config["load_from"], "finetune", classes=["a", "class 7", "b", "c"])
    assert [name for name, *_ in report.matched] == ["decode_head.conv_seg.weight", "decode_head.conv_seg.bias"]
    assert not report.fresh


def test_a_config_that_is_not_supported_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    case, _ = model_of("segformer_b0_hf")
    wrong = {
        "model_type": ({"model_type": "segfomer"}, "supported: beit, .*segformer"),
        "architectures": ({"architectures": ["SegformerModel"]}, "SegformerModel is not supported"),
        "depths": ({"depths": [2, 2]}, "num_layers"),
        "mlp_ratios": ({"mlp_ratios": [8, 8, 4, 4]}, "all entries must be equal"),
        "hidden_act": ({"hidden_act": "quick_gelu"}, "quick_gelu"),
        "hidden_sizes": ({"hidden_sizes": [32, 64]}, "not a valid config"),
    }
    for name, (change, said) in wrong.items():
        path = folder_of(case, tmp_path / name, PROCESSOR, **change)
        with pytest.raises(ConfigError, match=said) as caught:
            Predictor(path)
        assert "config.json" in str(caught.value), name


def test_weights_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    case, _ = model_of("segformer_b0_hf")
    path = folder_of(case, tmp_path / "wider", PROCESSOR, decoder_hidden_size=128)
    with pytest.raises(CheckpointError, match="do not fit the model"):
        Predictor(path)


def test_missing_and_damaged_files(folder: Path, tmp_path: Path) -> None:
    case, _ = model_of("segformer_b0_hf")
    path = folder_of(case, tmp_path / "model", PROCESSOR)
    (path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
        Predictor(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    config = (path / "config.json").read_text()
    (path / "config.json").write_text("[")
    with pytest.raises(ConfigError, match=r"config\.json is not a JSON file"):
        Predictor(path)
    (path / "config.json").write_text(config)
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        Predictor(path)
