"""Several models as one in Python, in `seg-kernel predict` and in `seg-kernel serve`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from segkernel import Predictor
from segkernel.errors import UsageError
from segplug_datasets import Ensemble
from segplug_deploy.serve.models import ServedModel, parts_of, split_names

CLASSES = ["ground", "plant", "rock"]
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 13, 3), np.uint8)


@pytest.fixture
def models() -> list[nn.Module]:
    """Two models that disagree on most pixels."""
    torch.manual_seed(0)
    return [nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)]


def test_a_predictor_of_a_list_averages_the_probabilities(models: list[nn.Module]) -> None:
    both = Predictor(models, classes=CLASSES, device="cpu")
    assert isinstance(both, Ensemble)
    first, second = (Predictor(each, classes=CLASSES)(PIXELS, probabilities=True) for each in models)
    mean = (first["seg_probabilities"] + second["seg_probabilities"]) / 2
    assert torch.equal(both(PIXELS).labels, mean.argmax(0).to(torch.uint8))
    assert not torch.equal(first.labels, second.labels)
    assert [each.labels.tolist() for each in both([PIXELS, PIXELS])] == 2 * [both(PIXELS).labels.tolist()]


def test_predictors_can_be_parts_and_keep_their_own_settings(models: list[nn.Module]) -> None:
    parts = [Predictor(each, classes=CLASSES, tta={"flip": True}) for each in models]
    both = Predictor(parts)
    assert both.predictors == parts
    assert both.classes == tuple(CLASSES)
    with pytest.raises(UsageError, match="needs two models or more"):
        Predictor(parts[:1])


def test_an_ensemble_is_served(models: list[nn.Module]) -> None:
    both = Predictor(models, classes=CLASSES, device="cpu")
    served = ServedModel("both", both)
    (answer,) = served.compute([served.prepare(PIXELS)])
    assert isinstance(answer, np.ndarray)
    assert np.array_equal(answer, both(PIXELS).labels.numpy())


def test_models_joined_by_plus_are_one_model_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "a+b.pt").touch()
    for name in ("first.pt", "second.onnx"):
        (tmp_path / name).touch()
    several = f"{tmp_path}/first.pt+{tmp_path}/second.onnx"
    assert split_names([several, f"best={several}"]) == {"first-second": several, "best": several}
    assert parts_of(several) == [f"{tmp_path}/first.pt", f"{tmp_path}/second.onnx"]
    assert parts_of(f"{tmp_path}/a+b.pt") == [f"{tmp_path}/a+b.pt"]
