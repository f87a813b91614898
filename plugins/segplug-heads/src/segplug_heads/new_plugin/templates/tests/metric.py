from __future__ import annotations

from types import SimpleNamespace

import torch

from segplug_my_model.metric import MyModelMetric


def test_ignored_pixels_do_not_count() -> None:
    metric = MyModelMetric()
    prediction = SimpleNamespace(labels=torch.tensor([[0, 1, 1, 1]]))
    metric.update(prediction, {"seg": torch.tensor([[0, 1, 0, 255]])})
    assert metric.compute() == {"pixel_accuracy": 100 * 2 / 3}


def test_without_labels_it_is_zero() -> None:
    assert MyModelMetric().compute() == {"pixel_accuracy": 0.0}
