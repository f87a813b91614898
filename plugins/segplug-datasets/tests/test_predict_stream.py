"""Images are read ahead and written behind, in order and in batches, with the predictions of single images."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import Predictor
from segkernel.errors import DataError, UsageError
from segplug_datasets import image, predict_images
from segplug_datasets.predict import stream
from segplug_datasets.predict.ensemble import Ensemble
from segplug_datasets.predict.stream import Behind, grouped, mapped, prefetched


def test_results_come_in_order_and_only_a_few_ahead() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            drawn.append(number)
            yield number

    results = mapped(lambda number: -number, prefetched(items(), 2), ahead=3, threads=2)
    assert next(results) == 0
    assert len(drawn) <= 7
    assert list(results) == [-number for number in range(1, 20)]


def test_no_more_results_wait_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_WAITING", 10)
    made: list[int] = []
    results = mapped(lambda number: made.append(number) or number, range(30), ahead=8, threads=1, size=lambda _: 6)
    for number, result in enumerate(results):
        assert result == number
        assert len(made) <= number + 4
    assert made == list(range(30))


def test_an_error_of_a_thread_is_raised_in_its_place() -> None:
    results = mapped(lambda number: 1 // (2 - number), prefetched(range(5)), ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_stream_that_is_closed_early_leaves_no_thread() -> None:
    before = threading.active_count()
    results = mapped(str, prefetched(range(1000)))
    next(results)
    results.close()
    del results
    assert threading.active_count() == before


def test_an_error_of_a_writer_is_raised_at_the_end() -> None:
    with pytest.raises(ZeroDivisionError), Behind() as write:
        write(lambda: 1 // 0)


def test_groups_are_of_equal_neighbours() -> None:
    assert list(grouped("aaabba", str, 2)) == [["a", "a"], ["a"], ["b", "b"], ["a"]]


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(torch.nn.Conv2d(3, 3, 3, padding=1), classes=["ground", "red", "blue"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number, size in enumerate([(12, 16), (12, 16), (12, 16), (16, 12), (12, 16)]):
        image.write(tmp_path / "in" / f"{number}.png", rng.integers(0, 256, (*size, 3)).astype(np.uint8))
    return tmp_path / "in"


def test_batches_give_the_predictions_of_single_images(
    predictor: Predictor, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = predictor.predict_samples
    monkeypatch.setattr(
        predictor, "predict_samples", lambda each, **options: sizes.append(len(each)) or original(each, **options)
    )
    found = list(predict_images(predictor, photos, tmp_path / "out", batch_size=2, probabilities=True))
    assert sizes == [2, 1, 1, 1]
    for number, prediction in enumerate(found):
        alone = predictor(photos / f"{number}.png", probabilities=True)
        assert torch.equal(prediction.labels, alone.labels)
        assert torch.allclose(prediction["seg_probabilities"], alone["seg_probabilities"], atol=1e-6)
        assert np.array_equal(image.read_mask(tmp_path / "out" / "pred" / f"{number}.png"), alone.labels.numpy())


def test_a_batch_that_fails_is_predicted_one_by_one(
    predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = predictor.predict_samples

    def limited(samples: Any, **options: Any) -> Any:
        if len(samples) > 1:
            raise DataError("out of memory")
        return original(samples, **options)

    monkeypatch.setattr(predictor, "predict_samples", limited)
    assert len(list(predict_images(predictor, photos, batch_size=4))) == 5


def test_windows_are_proposed_once_for_large_images(
    predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("segplug_datasets.predict.images.LARGE", 50)
    list(predict_images(predictor, photos))
    assert caplog.text.count("predicted as a whole; windows take less memory: 'evaluate.test_cfg={mode: slide") == 1
    predictor.test_cfg = {"mode": "slide", "crop_size": (8, 8), "stride": (8, 8)}
    caplog.clear()
    list(predict_images(predictor, photos))
    assert not caplog.text


def test_a_batch_size_of_zero_is_refused(predictor: Predictor, photos: Path) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        list(predict_images(predictor, photos, batch_size=0))


# ---------------------------------------------------------------- several models


def test_an_ensemble_averages_probabilities(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = Predictor(
        torch.nn.Conv2d(3, 3, 1), classes=predictor.classes, preprocess={"mean": [0.0] * 3, "std": [255.0] * 3}
    )
    both = Ensemble([predictor, other])
    found = list(predict_images(both, photos, tmp_path / "out", batch_size=3, probabilities=True))
    for number, prediction in enumerate(found):
        path = photos / f"{number}.png"
        mean = (
            predictor(path, probabilities=True)["seg_probabilities"]
            + other(path, probabilities=True)["seg_probabilities"]
        ) / 2
        assert torch.allclose(prediction["seg_probabilities"], mean, atol=1e-6)
        assert torch.equal(prediction.labels, mean.argmax(0).to(torch.uint8))
    assert torch.equal(both(photos / "0.png").labels, found[0].labels)
    assert len(list((tmp_path / "out" / "vis").iterdir())) == 5


def test_models_of_an_ensemble_agree_on_classes(predictor: Predictor) -> None:
    other = Predictor(torch.nn.Conv2d(3, 3, 1), classes=["ground", "blue", "red"])
    with pytest.raises(UsageError, match="model 2 of the ensemble has other classes: ground, blue, red"):
        Ensemble([predictor, other])
    with pytest.raises(UsageError, match="two models or more"):
        Ensemble([predictor])
