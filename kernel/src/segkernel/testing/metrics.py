"""Checks of metrics: streaming, and mergeable."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from segkernel.labels import IGNORE
from segkernel.sample import Prediction, Targets
from segkernel.testing.core import Subject, check, require, skip_unless

IMAGES = 6


@check("metrics", name="numbers")
def numbers(subject: Subject) -> None:
    """``compute`` returns numbers by name, the same when called twice."""
    metric = _fed(subject, range(IMAGES))
    values = metric.compute()
    require(values, "compute() returned nothing")
    for name, value in values.items():
        require(isinstance(name, str) and isinstance(value, float), f"{name!r} is {type(value).__name__}, not a float")
    require(_same(values, metric.compute()), "compute() changes the state of the metric")


@check("metrics", name="merge")
def merge(subject: Subject) -> None:
    """Two merged halves, and one without images, have the values of the whole."""
    whole = _fed(subject, range(IMAGES)).compute()
    first = _fed(subject, range(IMAGES // 2))
    first.merge(_fed(subject, range(IMAGES // 2, IMAGES)))
    first.merge(_fed(subject, ()))
    merged = first.compute()
    require(_same(whole, merged), f"merged halves have {merged}, the whole {whole}")


@check("metrics", name="copies")
def copies(subject: Subject) -> None:
    """A copy is independent: each evaluation starts from one."""
    metric = _build(subject)
    other = copy.deepcopy(metric)
    other.update(*_image_for(subject, metric, 0))
    fresh = _fed(subject, range(2)).compute()
    for number in range(2):
        metric.update(*_image_for(subject, metric, number))
    require(_same(fresh, metric.compute()), "updating a copy changed the original")


@check("metrics", name="reference")
def reference(subject: Subject) -> None:
    """mIoU, mAcc and aAcc equal those of a plain confusion matrix."""
    metric = _fed(subject, range(IMAGES))
    values = metric.compute()
    expected = confusion_metrics(_classes(subject, metric))
    shared = [name for name in expected if name in values]
    skip_unless(shared, "computes none of mIoU, mAcc, aAcc")
    for name in shared:
        # Percentages and fractions are both in use; compare with the nearer one.
        scale = min((1, 100), key=lambda scale: abs(values[name] - expected[name] * scale))
        fits = math.isclose(values[name], expected[name] * scale, abs_tol=0.006 * scale)
        require(fits, f"{name} is {values[name]:.4f}, by a confusion matrix {expected[name] * scale:.4f}")


def confusion_metrics(classes: int) -> dict[str, float]:
    """Return mIoU, mAcc and aAcc, 0 to 1, of the images of the checks."""
    matrix = np.zeros((classes, classes))
    for number in range(IMAGES):
        prediction, target = _image(number, classes)
        truth, guess = target["seg"].numpy().ravel(), prediction.labels.numpy().ravel()
        counted = truth != IGNORE
        np.add.at(matrix, (truth[counted], guess[counted]), 1)
    hit, truths, guesses = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou, accuracy = hit / (truths + guesses - hit), hit / truths
    return {"mIoU": float(iou.mean()), "mAcc": float(accuracy.mean()), "aAcc": float(hit.sum() / matrix.sum())}


def _build(subject: Subject) -> Any:
    metric = subject.build()
    if getattr(metric, "classes", ()) is None:  # they come from the data set
        metric.classes = ("a", "b", "c", "d")
    return metric


def _fed(subject: Subject, numbers: Iterable[int]) -> Any:
    metric = _build(subject)
    for number in numbers:
        metric.update(*_image_for(subject, metric, number))
    return metric


def _image_for(subject: Subject, metric: Any, number: int) -> tuple[Prediction, Targets]:
    """Return an image of label maps, or what ``make`` of the ``conformance_inputs`` returns for its number."""
    make = subject.inputs.get("make")
    return make(number) if make else _image(number, _classes(subject, metric))


def _image(number: int, classes: int) -> tuple[Prediction, Targets]:
    generator = torch.Generator().manual_seed(number)
    truth = torch.randint(0, classes, (24, 32), generator=generator, dtype=torch.uint8)
    right = torch.rand(truth.shape, generator=generator) < 0.7
    other = torch.randint(0, classes, truth.shape, generator=generator, dtype=torch.uint8)
    probabilities = torch.rand((classes, *truth.shape), generator=generator).softmax(0)
    guess = torch.where(right, truth, other)
    truth[:3] = IGNORE
    prediction = Prediction({"seg": guess, "seg_probabilities": probabilities}, {"name": str(number)})
    return prediction, Targets({"seg": truth}, dict(prediction.meta))


def _classes(subject: Subject, metric: Any) -> int:
    declared = subject.inputs.get("num_classes") or getattr(metric, "num_classes", None)
    return int(declared or len(getattr(metric, "classes", None) or "four"))


def _same(first: dict[str, float], second: dict[str, float]) -> bool:
    ordered = [second.get(name, math.inf) for name in first]
    return len(first) == len(second) and np.allclose([*first.values()], ordered, rtol=1e-9, atol=1e-12, equal_nan=True)
