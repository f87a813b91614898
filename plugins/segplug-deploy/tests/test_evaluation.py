"""Validation and test by the fast paths: the same metrics, and the model is as before afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deploy_models import Tiny
from torch import nn

from segkernel import Evaluation, Runner
from segkernel.engine import LocalEngine
from segkernel.interfaces.model import PixelClasses
from segkernel.sample import LabelMap, Sample
from segplug_deploy.evaluation import FastEvaluationHook
from segplug_deploy.labels import FastPixelClasses


class Noise:
    """Two images of noise."""

    classes = ("a", "b")
    palette = ((0, 0, 0), (1, 1, 1))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        labels = rng.integers(0, 2, (150, 170)).astype(np.uint8)
        return Sample({"seg": LabelMap(labels)}, {}, rng.integers(0, 256, (150, 170, 3)).astype(np.uint8))


class Seen:
    """Keeps the predicted labels, and which model and outputs were in use."""

    def __init__(self, run: Callable[[], Runner], fails: bool = False) -> None:
        self.run, self.fails, self.labels, self.kinds, self.norms = run, fails, [], [], []

    def __deepcopy__(self, memo: Any) -> Seen:
        return self

    def update(self, prediction: Any, target: Any) -> None:
        if self.fails:
            raise ValueError("a metric that fails")
        self.labels.append(prediction.labels)
        self.kinds.append(type(self.run().model.outputs["seg"]))
        engine: Any = self.run().engine
        self.norms.append(sum(isinstance(module, nn.BatchNorm2d) for module in engine.segmentor.modules()))

    def merge(self, other: Any) -> None: ...

    def compute(self) -> dict[str, float]:
        return {}


def evaluate(path: Path, kind: str, *, fails: bool = False, **options: Any) -> tuple[Seen, Runner]:
    seen = Seen(lambda: runner, fails)
    model = Tiny()
    if options.pop("observed", False):
        model.head.register_forward_hook(lambda *_: None)
    hooks = [FastEvaluationHook(**options)]
    sets = {"val": Noise(), "test": Noise()}
    runner = Runner(model, **sets, hooks=hooks, evaluation=Evaluation([seen]), engine=LocalEngine("cpu"), work_dir=path)
    if fails:
        with pytest.raises(ValueError, match="a metric that fails"):
            getattr(runner, kind)()
    else:
        getattr(runner, kind)()
    runner.close()
    return seen, runner


@pytest.mark.parametrize(
    ("kind", "options", "norms"),
    [("validate", {}, 1), ("test", {}, 0), ("test", {"optimize": False}, 1), ("test", {"observed": True}, 1)],
)
def test_labels_are_those_of_the_plain_path_and_a_test_runs_a_faster_copy(
    tmp_path: Path, kind: str, options: dict, norms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, runner = evaluate(tmp_path / "fast", kind, **options)
    assert set(seen.kinds) == {FastPixelClasses}
    assert set(seen.norms) == {norms}
    assert type(runner.model.outputs["seg"]) is PixelClasses
    assert runner.engine.segmentor is runner.model
    monkeypatch.setattr(FastEvaluationHook, "before_validation", lambda self, run: None)
    monkeypatch.setattr(FastEvaluationHook, "before_test", lambda self, run: None)
    plain, _ = evaluate(tmp_path / "plain", kind)
    assert set(plain.kinds) == {PixelClasses}
    equal = torch.stack(seen.labels) == torch.stack(plain.labels)
    assert equal.all() if norms else equal.float().mean() > 0.999


@pytest.mark.parametrize("kind", ["validate", "test"])
def test_the_model_is_restored_after_an_error(tmp_path: Path, kind: str) -> None:
    _, runner = evaluate(tmp_path, kind, fails=True)
    assert type(runner.model.outputs["seg"]) is PixelClasses
    assert runner.engine.segmentor is runner.model
