"""Several models as one: the mean of their probabilities.

predictor = Ensemble([Predictor("a.pt"), Predictor("b.pt")])
for prediction in predict_images(predictor, "photos/", "predictions"): ...

`as_segmentor` makes it the model of a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkernel.errors import UsageError
from segplug_datasets.labelled import Named
from segplug_datasets.visualize import draws_itself

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from segkernel import Predictor
    from segkernel.interfaces.model import Segmentor
    from segkernel.sample import Prediction, Sample


class Ensemble(Named):
    """Predicts with several models: probabilities at the image's size are averaged, then decoded.

    Each model has its own transforms and preprocessing; images are read as the first model reads them.

    Args:
        predictors: Models with the same classes, in the same order.

    Raises:
        UsageError: When there are fewer than two, classes or tasks differ, or a model predicts other values.
    """

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        if len(predictors) < 2:
            raise UsageError("an ensemble needs two models or more")
        first, *others = predictors
        for number, other in enumerate(others, 2):
            if other.classes != first.classes:
                theirs, ours = (", ".join(each.classes[:8]) for each in (other, first))
                raise UsageError(f"model {number} of the ensemble has other classes: {theirs}; not {ours}")
            if other.model.outputs.get("seg") != (mine := first.model.outputs["seg"]):
                raise UsageError(f"model {number} of the ensemble has the output {other.model.outputs}, not {mine}")
        if not first.model.outputs["seg"].classes or draws_itself(first.model.outputs["seg"]):
            raise UsageError("an ensemble averages probabilities, but the models predict other values")
        self.predictors, self.labels = list(predictors), first.labels
        self.model, self.reader = _Main(first.model.outputs["seg"]), first.reader

    @property
    def device(self) -> torch.device:
        """Where the first model runs."""
        return self.predictors[0].device

    def __call__(self, source: Any, *, probabilities: bool = False) -> Prediction:
        """Predict one image, an argument of `segkernel.Predictor.read`."""
        path = Path(source) if isinstance(source, str | Path) else None
        sample = self.prepare(self.read(source), name=path.stem if path else "image", path=path)
        return self.predict_samples([sample], probabilities=probabilities)[0]

    def read(self, source: Any) -> Any:
        """Read an image, as `segkernel.Predictor.read`."""
        return self.predictors[0].read(source)

    def prepare(self, pixels: Any, *, name: str = "image", path: Any = None) -> tuple[Sample, ...]:
        """Return one sample per model, as `segkernel.Predictor.prepare`."""
        return tuple(predictor.prepare(pixels, name=name, path=path) for predictor in self.predictors)

    def predict_samples(
        self, samples: Sequence[tuple[Sample, ...]], *, probabilities: bool = False
    ) -> list[Prediction]:
        """Predict results of `prepare` as one batch, as `segkernel.Predictor.predict_samples`."""
        every = [
            predictor.predict_samples(batch, probabilities=True)
            for predictor, batch in zip(self.predictors, zip(*samples, strict=True))
        ]
        found = []
        for views in zip(*every, strict=True):
            mean = sum(view["seg_probabilities"] for view in views) / len(views)
            fields = {"seg": self.model.outputs["seg"].decode(mean[None], activated=True)}
            fields |= {"seg_probabilities": mean} if probabilities else {}
            found.append(type(views[0])(fields, views[0].meta))
        return found


class _Main:
    """Stands for the models: the one output that an ensemble has."""

    def __init__(self, output: Any) -> None:
        self.outputs = {"seg": output}


def as_segmentor(ensemble: Ensemble) -> Segmentor:
    """Return an ensemble as the model of a test: images as they were read to their probabilities, at their size.

    Each model of the ensemble does its own preprocessing, windows and test-time augmentation.
    """
    import torch

    from segkernel.interfaces.model import Segmentor

    class EnsembleModel(Segmentor):
        def __init__(self) -> None:
            super().__init__()
            self.outputs = {"seg": replace(ensemble.model.outputs["seg"], activation="none")}
            self.test_cfg = {"mode": "whole"}

        def forward(self, images: Tensor) -> Tensor:
            return self.predict(images)["seg"]

        def predict(self, images: Tensor) -> dict[str, Tensor]:
            whole = images.to(torch.uint8)  # as they were in the file; a transform may treat floats in another way
            given = (whole if torch.equal(whole.to(images.dtype), images) else images).permute(0, 2, 3, 1).cpu().numpy()
            found = ensemble.predict_samples([ensemble.prepare(each) for each in given], probabilities=True)
            return {"seg": torch.stack([each["seg_probabilities"] for each in found]).to(images.device)}

        def loss(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
            raise UsageError("an ensemble only predicts; train its models one by one")

    return EnsembleModel()
