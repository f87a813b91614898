"""Evaluation: one pass for metrics and loss, and the old names of its parts."""

from __future__ import annotations

import pytest
import torch

from segkernel import Evaluation
from segkernel.errors import SegKernelRemovedIn04Warning
from segkernel.sample import Prediction

SLIDE = {"mode": "slide", "crop_size": (16, 16), "stride": (16, 16)}


@pytest.fixture
def validate(make_runner, tiny_model, pixel_accuracy):
    """Return a function that validates once; it returns the metrics and the number of forward passes."""

    def run(two_passes: bool = False, **options):
        model = tiny_model()
        if two_passes:
            one = type(model)
            model.__class__ = type("TwoPasses", (one,), {"loss": lambda self, *inputs: one.loss(self, *inputs)})
        runs = []
        model.register_forward_hook(lambda *_: runs.append(1))
        runner = make_runner(model=model, evaluation=Evaluation([pixel_accuracy()], **options))
        metrics = runner.validate()
        runner.close()
        return metrics, len(runs)

    return run


def test_metrics_and_loss_come_from_one_pass(validate) -> None:
    metrics, runs = validate()
    assert runs == 2  # batches
    twice, more = validate(two_passes=True, loss=True)
    assert more == 4
    assert metrics == pytest.approx(twice)
    assert "loss" in metrics


@pytest.mark.parametrize("options", [{"two_passes": True}, {"test_cfg": SLIDE}, {"loss": False}])
def test_no_loss_if_it_needs_a_second_pass_or_is_turned_off(validate, options) -> None:
    metrics, _ = validate(**options)
    assert "loss" not in metrics


def test_the_loss_of_whole_images_can_be_requested_with_windows(validate) -> None:
    assert validate(test_cfg=SLIDE, loss=True)[0]["loss"] == pytest.approx(validate()[0]["loss"])


class Wants:
    """A metric of before 0.3."""

    needs_scores = True

    def update(self, prediction, target) -> None:
        self.shape = tuple(prediction["seg_scores"].shape)

    def merge(self, other) -> None: ...

    def compute(self):
        return {"channels": float(self.shape[0])}


def test_a_metric_may_still_request_probabilities_by_the_old_name(make_runner) -> None:
    runner = make_runner(evaluation=Evaluation([Wants()]))
    with pytest.warns(SegKernelRemovedIn04Warning) as warned:
        assert runner.test()["channels"] == 3
    messages = {str(warning.message) for warning in warned}
    assert "Wants.needs_scores is deprecated and will be removed in 0.4; use needs_probabilities" in messages
    assert "the field 'seg_scores' is deprecated and will be removed in 0.4; use 'seg_probabilities'" in messages


def test_the_old_name_of_a_field_finds_the_new_one() -> None:
    prediction = Prediction({"seg": torch.zeros(2, 2), "seg_probabilities": torch.ones(3, 2, 2)})
    with pytest.warns(SegKernelRemovedIn04Warning):
        assert prediction.get("seg_scores") is prediction["seg_probabilities"]
    with pytest.warns(SegKernelRemovedIn04Warning):
        assert "seg_scores" in prediction
    assert "edge_scores" not in prediction
    assert prediction.get("edge_scores", 3) == 3
