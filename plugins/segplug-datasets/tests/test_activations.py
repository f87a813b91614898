"""Class-activation and feature maps, compared with those computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkernel import Predictor
from segkernel.errors import UsageError
from segplug_datasets import class_activation, feature_maps, image
from segplug_datasets.predict.activations import channel_sheet, heat_overlay

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 5, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.head(self.activation(self.features(images)))
        return result


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(Layers(), classes=["ground", "tree"], preprocess=PLAIN)


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["ground", "tree"])
def test_an_activation_map_weights_channels_by_their_mean_gradient(predictor: Predictor, name: str) -> None:
    class_id, model = predictor.classes.index(name), predictor.model.module
    with torch.no_grad():
        seen = model.features(torch.from_numpy(PIXELS).permute(2, 0, 1)[None].float()).relu()[0]
        expected = torch.einsum("c,chw->hw", model.head.weight[class_id, :, 0, 0], seen).relu()
    found = class_activation(predictor, PIXELS, name, "module.activation")
    assert found.shape == (12, 16)
    assert np.allclose(found, expected / expected.max(), atol=1e-5)


def test_feature_maps_are_the_layer_s_output_even_if_it_is_changed_in_place(predictor: Predictor) -> None:
    with torch.no_grad():
        expected = predictor.model.module.features(torch.from_numpy(PIXELS).permute(2, 0, 1)[None].float())[0]
    found = feature_maps(predictor, PIXELS, "module.features")
    assert (found < 0).any()  # the ReLU that follows works in place
    assert np.allclose(found, expected, atol=1e-4)


def test_pictures_have_the_image_s_size(predictor: Predictor, tmp_path: Path) -> None:
    heat = np.linspace(0, 1, 12 * 16).reshape(12, 16)
    painted = heat_overlay(PIXELS, heat, opacity=1)
    assert painted.shape == PIXELS.shape
    assert painted[0, 0].tolist() != painted[-1, -1].tolist()
    sheet = channel_sheet(np.random.default_rng(0).random((5, 12, 16)).astype(np.float32), count=4)
    assert sheet.shape == (2 * 120 + 4, 2 * 160 + 4, 3)
    image.write(tmp_path / "sheet.png", sheet)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("tre", "activation"), "did you mean 'tree'"), (("tree", "nothing"), "no module 'nothing'")],
)
def test_unknown_names_are_answered_with_near_ones(predictor: Predictor, arguments: tuple[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        class_activation(predictor, PIXELS, *arguments)
