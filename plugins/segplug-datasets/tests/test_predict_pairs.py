"""Image pairs are predicted as their data set returns them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import Predictor
from segkernel.errors import DataError, UsageError
from segplug_datasets import image, predict_images
from segplug_datasets.change import BaseCDDataset


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pairs, laid out as a data set."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for folder in ("A", "B"):
            image.write(tmp_path / folder / f"{name}.png", rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
        image.write_mask(tmp_path / "label" / f"{name}.png", np.zeros((12, 16), np.uint8))
    return tmp_path


@pytest.fixture
def predictor() -> Predictor:
    return make("BaseCDDataset")


def make(kind: str, **arguments: Any) -> Predictor:
    torch.manual_seed(0)
    model = {"type": "segkernel.testing.toys:ToySegmentor", "num_classes": 2, "in_channels": 6}
    data = {
        "test": {"type": kind, **arguments},
        "eval_transforms": [{"type": "ConcatCDInput"}],
        "preprocess": {"mean": [0.0] * 6, "std": [9.0] * 6},
    }
    return Predictor({"model": model, "data": data}, random_weights=True)


def test_a_pair_is_predicted_as_the_data_set_s_sample(predictor: Predictor, pairs: Path) -> None:
    sample = BaseCDDataset(pairs, img_suffix=".png")[0]
    files = (pairs / "A" / "a.png", pairs / "B" / "a.png")
    found = predictor(files)
    assert found.meta["name"] == "a"
    expected = predictor(sample, probabilities=True)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(predictor(tuple(map(image.read, files))).labels, expected.labels)
    both = np.concatenate([image.read(path) for path in files], 2)
    seen = predictor.example(files)[0].permute(1, 2, 0).numpy()
    assert np.allclose(seen * 9, both)
    assert "img2" in sample  # it is left as it was
    assert len(predictor([files, files])) == 2


def test_folders_are_matched_by_name(predictor: Predictor, pairs: Path, tmp_path: Path) -> None:
    found = list(predict_images(predictor, pairs / "A", tmp_path / "out", seconds=pairs / "B"))
    assert [prediction.meta["name"] for prediction in found] == ["a", "b"]
    assert torch.equal(found[1].labels, predictor((pairs / "A" / "b.png", pairs / "B" / "b.png")).labels)
    assert np.array_equal(image.read_mask(tmp_path / "out" / "pred" / "b.png"), found[1].labels.numpy())
    assert (tmp_path / "out" / "vis" / "b.png").exists()


def test_one_pair_may_have_any_names(predictor: Predictor, pairs: Path) -> None:
    (found,) = predict_images(predictor, pairs / "A" / "a.png", seconds=pairs / "B" / "b.png")
    assert torch.equal(found.labels, predictor((pairs / "A" / "a.png", pairs / "B" / "b.png")).labels)


def test_rasters_come_in_pairs_too(pairs: Path) -> None:
    predictor = make("RasterDataset", images="gone", images2="gone", value_range=[0, 255])
    pair = predictor.read((pairs / "A" / "a.png", pairs / "B" / "a.png"))
    assert np.array_equal(pair.image, image.read(pairs / "A" / "a.png"))
    assert np.array_equal(pair["img2"].array, image.read(pairs / "B" / "a.png"))


def test_one_image_is_not_enough(predictor: Predictor, pairs: Path) -> None:
    with pytest.raises(UsageError, match="compares two images"):
        predictor(pairs / "A" / "a.png")


def test_second_images_are_refused_by_a_model_of_single_ones(pairs: Path) -> None:
    single = Predictor(torch.nn.Conv2d(3, 2, 1), classes=["no", "yes"])
    with pytest.raises(UsageError, match="takes single images"):
        list(predict_images(single, pairs / "A", seconds=pairs / "B"))


def test_images_without_partner_are_named(predictor: Predictor, pairs: Path) -> None:
    (pairs / "B" / "b.png").rename(pairs / "B" / "c.png")
    with pytest.raises(DataError, match=r"b\.png: is unpaired"):
        list(predict_images(predictor, pairs / "A", seconds=pairs / "B"))


def test_pairs_of_different_sizes_are_refused(predictor: Predictor, pairs: Path) -> None:
    image.write(pairs / "B" / "a.png", np.zeros((5, 16, 3), np.uint8))
    with pytest.raises(DataError, match=r"the first image is \(12, 16\)"):
        predictor((pairs / "A" / "a.png", pairs / "B" / "a.png"))
