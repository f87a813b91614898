"""Configs and image processors of transformers as sections of a config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segkernel.config import load_config
from segkernel.errors import CheckpointError, ConfigError
from segplug_heads.hugging_face import FAMILIES
from segplug_heads.hugging_face.folder import Folder, is_folder
from segplug_heads.hugging_face.image_processor import preprocessing_of

IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


def test_image_processors():
    resize = {"type": "PillowResize", "resample": "bilinear"}
    segformer = {"image_processor_type": "SegformerImageProcessorFast"}
    table = [
        (segformer | {"size": 64}, IMAGENET, [resize | {"size": [64, 64]}]),
        (segformer | {"size": {"shortest_edge": 64}}, IMAGENET, [resize | {"shortest_edge": 64}]),
        (segformer | {"do_resize": False, "do_pad": None}, IMAGENET, []),
        ({"feature_extractor_type": "SegformerFeatureExtractor"}, IMAGENET, [resize | {"size": [512, 512]}]),
        (segformer | {"do_rescale": False, "image_mean": [0, 0, 1], "image_std": [1, 1, 2], "do_resize": False},
         {"mean": [0, 0, 1], "std": [1, 1, 2]}, []),
        (segformer | {"do_normalize": False, "do_resize": False}, {"mean": [0, 0, 0], "std": [255, 255, 255]}, []),
        ({"image_processor_type": "MobileViTImageProcessor", "do_resize": False},
         {"mean": [0, 0, 0], "std": [255, 255, 255], "channel_order": "bgr"}, []),
        ({"image_processor_type": "DPTImageProcessor", "size": {"height": 518, "width": 518}, "resample": 3,
          "keep_aspect_ratio": True, "ensure_multiple_of": 14}, {"mean": [127.5] * 3, "std": [127.5] * 3},
         [{"type": "PillowResize", "resample": "bicubic", "size": [518, 518], "keep_aspect_ratio": True,
           "multiple_of": 14}]),
    ]  # fmt: skip
    for processor, preprocess, transforms in table:
        assert preprocessing_of(processor, "segformer") == (preprocess, transforms), processor


def test_an_unknown_image_processor_is_an_error():
    for wrong in ({"image_processor_type": "VideoMAEImageProcessor"}, {"do_pad": True}, {"size": {"max": 3}}):
        with pytest.raises(ConfigError, match="is not supported"):
            preprocessing_of(wrong, "segformer")


def test_a_folder_without_an_image_processor_takes_the_usual_one(caplog):
    preprocess, _ = preprocessing_of(None, "segformer")
    assert preprocess == IMAGENET
    assert "preprocessor_config.json" in caplog.text


def test_what_has_no_counterpart_names_its_key(tmp_path: Path):
    table = {
        "widths": ({"model_type": "segformer", "hidden_sizes": [32, 64, 160, 255]}, "hidden_sizes"),
        "resnet": ({"model_type": "upernet", "backbone_config": {"model_type": "resnet"}},
                   "backbone_config.model_type"),
        "no backbone": ({"model_type": "upernet", "backbone": "resnet50"}, "backbone"),
        "no biases": ({"model_type": "beit"}, "use_relative_position_bias"),
        "embedding": ({"model_type": "beit", "use_relative_position_bias": True, "out_indices": [1, 2, 3, 4]},
                      "out_indices"),
        "hybrid": ({"model_type": "dpt", "is_hybrid": True}, "is_hybrid"),
        "stride": ({"model_type": "mobilenet_v2", "output_stride": 4}, "output_stride"),
        "depth": ({"model_type": "depth_anything", "depth_estimation_type": "absolute"}, "depth_estimation_type"),
        "dinov3": ({"model_type": "depth_anything", "backbone_config": {"model_type": "dinov3"}},
                   "backbone_config.model_type"),
    }  # fmt: skip
    for name, (values, key) in table.items():
        with pytest.raises(ConfigError) as caught:
            Folder(tmp_path, values, {}).config()
        (problem,) = caught.value.problems
        assert (problem.path, problem.place) == (key, str(tmp_path / "config.json")), name


def test_classes_of_a_folder(tmp_path: Path):
    names = {"10": "sky", "0": "road", "2": "road"}
    assert Folder(tmp_path, {"id2label": names}, None).classes == ["road", "road 2", "sky"]
    assert Folder(tmp_path, {"num_labels": 3}, None).classes == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_other_configs_are_not_folders_of_models(tmp_path: Path):
    assert not is_folder(tmp_path)
    for text in ("[]", "{", json.dumps({"model": 3})):
        (tmp_path / "config.json").write_text(text)
        assert not is_folder(tmp_path), text


def test_the_licence_of_a_model_card(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer"}))
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: nvidia\nlicense_link: https://x.y\n---\n")
    assert load_config(str(tmp_path)).meta["licence"] == "nvidia (https://x.y)"
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load_config(str(tmp_path))


def test_every_family_has_a_module():
    from importlib import import_module

    for name in FAMILIES:
        assert callable(import_module(f"segplug_heads.hugging_face.{name}").segmentor)
