"""Several models as one: the mean of their probabilities.

predictor = Predictor(["a.pt", "b.pt"])
for prediction in predict_images(predictor, "photos/", "predictions"): ...

`as_segmentor` makes it the model of a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from segkernel import Predictor
from segkernel.errors import UsageError
from segplug_datasets.visualize import draws_itself

if TYPE_CHECKING:
    from torch import Tensor

    from segkernel.interfaces.model import Segmentor
    from segkernel.sample import Prediction


class Ensemble(Predictor):
    """Predicts with several models: probabilities at the image's size are averaged, then decoded.

    Each model has its own transforms, preprocessing, windows and test-time augmentation; images are read as the first
    model reads them, and a sample of `prepare` is a tuple with one for each model.

    Args:
        models: Those of `Predictor`, or predictors; with the same classes, in the same order.
        arguments: Further arguments of `Predictor`, for models that are not predictors yet.
        options: The same, by name.

    Raises:
        UsageError: When there are fewer than two, classes or tasks differ, or a model predicts other values.
    """

    def __init__(self, models: Sequence[Any], *arguments: Any, **options: Any) -> None:
        if len(models) < 2:
            raise UsageError("an ensemble needs two models or more")
        made = (each if isinstance(each, Predictor) else Predictor(each, *arguments, **options) for each in models)
        self.predictors: list[Predictor] = list(made)
        first, *others = self.predictors
        output = first.model.outputs["seg"]
        for number, other in enumerate(others, 2):
            if other.classes != first.classes:
                theirs, ours = (", ".join(each.classes[:8]) for each in (other, first))
                raise UsageError(f"model {number} of the ensemble has other classes: {theirs}; not {ours}")
            if other.model.outputs.get("seg") != output:
                raise UsageError(f"model {number} of the ensemble has the output {other.model.outputs}, not {output}")
        if not output.classes or draws_itself(output):
            raise UsageError("an ensemble averages probabilities, but the models predict other values")
        vars(self).update(vars(first))  # labels, reader and device are those of the first model
        self.model = SimpleNamespace(outputs={"seg": output})  # the one output that an ensemble has

    def prepare(self, pixels: Any, *, name: str = "image", path: Any = None) -> Any:
        return tuple(predictor.prepare(pixels, name=name, path=path) for predictor in self.predictors)

    def predict_samples(self, samples: Sequence[Any], *, probabilities: bool = False) -> list[Prediction]:
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
