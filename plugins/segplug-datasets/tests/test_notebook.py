"""Predictions, samples, data sets and configs show themselves in a notebook."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segkernel import Predictor, load_config
from segkernel.sample import LabelMap, MultiLabelMap, Prediction, Sample, Targets
from segplug_datasets.image import write
from segplug_datasets.notebook import SIDE
from segplug_datasets.street_scenes import StreetScenes


def pictures(html: str) -> list[np.ndarray]:
    """Return the pictures in a page, RGB."""
    data = re.findall(r"src='data:image/jpeg;base64,([A-Za-z0-9+/=]+)'", html)
    assert html.count("<img") == len(data)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(each), np.uint8), 1)[..., ::-1] for each in data]


class Halves(torch.nn.Module):
    """Class 1 in the right half."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        right = torch.arange(images.shape[-1]) >= images.shape[-1] / 2
        return torch.stack([~right, right]).float()[None, :, None].expand(len(images), 2, *images.shape[-2:]).clone()


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Halves(), classes=["sky", "<road>"], palette=[(0, 0, 250), (250, 0, 0)])


def test_a_prediction_is_an_overlay_with_the_share_of_each_class(predictor: Predictor, tmp_path: Path) -> None:
    grey = np.full((60, 100, 3), 120, np.uint8)
    write(tmp_path / "grey.png", grey)
    for image in (grey, tmp_path / "grey.png"):
        html = predictor(image)._repr_html_()
        (picture,) = pictures(html)
        assert picture.shape == (60, 100, 3)
        assert abs(picture[30, 10].astype(int) - (60, 60, 185)).max() < 8
        assert abs(picture[30, 90].astype(int) - (185, 60, 60)).max() < 8
        assert "&lt;road&gt;</td><td>50.0%" in html
    (tmp_path / "grey.png").unlink()
    prediction = predictor(grey)
    prediction.meta["image"] = str(tmp_path / "grey.png")
    assert len(pictures(prediction._repr_html_())) == 1, "the labels, when the image is gone"


def test_pictures_are_small_however_large_the_image_is(predictor: Predictor) -> None:
    html = predictor(np.zeros((900, 2000, 3), np.uint8))._repr_html_()
    (picture,) = pictures(html)
    assert picture.shape == (round(900 * SIDE / 2000), SIDE, 3)
    assert len(html) < 100_000


def test_predictions_of_other_kinds_are_drawn_or_left_to_their_text() -> None:
    several = Prediction({"seg": torch.ones(2, 8, 9, dtype=torch.uint8)})
    assert "class 1</td><td>100.0%" in several._repr_html_()
    assert len(pictures(Prediction({"seg": torch.rand(8, 9)})._repr_html_())) == 1
    assert Prediction({})._repr_html_() is None
    assert Targets()._repr_html_() is None


def test_a_sample_is_a_picture_and_its_fields() -> None:
    labels = np.zeros((8, 9), np.uint8)
    labels[0] = 255
    html = Sample({"seg": LabelMap(labels)}, {"name": "a&b"}, np.zeros((8, 9, 3), np.uint8))._repr_html_()
    assert len(pictures(html)) == 1
    assert "a&amp;b" in html
    assert "<td>seg</td><td>LabelMap (8, 9) uint8</td>" in html
    assert "(ignored)</td><td>12.5%" in html
    assert "image</td><td>(8, 9, 5) float32" in Sample(image=np.zeros((8, 9, 5), np.float32))._repr_html_()
    planes = MultiLabelMap(np.ones((8, 9, 2), np.uint8))
    assert "class 1</td><td>100.0%" in Sample({"seg": planes}, {}, np.zeros((8, 9, 3), np.uint8))._repr_html_()


def test_a_data_set_is_its_first_samples_and_classes() -> None:
    html = StreetScenes(size=(64, 96), length=9)._repr_html_()
    assert len(pictures(html)) == 4
    assert "<b>StreetScenes</b>: 9 samples, 8 classes" in html
    assert "rgb(" in html


def test_a_config_is_a_list_of_sections() -> None:
    html = load_config({"model": {"type": "FCN<8>"}, "seed": 3})._repr_html_()
    assert "<summary><code>model:</code></summary><pre>  type: &quot;FCN&lt;8&gt;&quot;</pre>" in html
    assert "<code>seed: 3</code>" in html
