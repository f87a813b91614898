"""Losses and scores of segmentation_models_pytorch on fixed inputs, by the losses and metrics here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segkernel.building import build
from segplug_datasets import ScoresMetric

FOLDER = Path(__file__).parent / "newmodels"
LOSSES = json.loads((FOLDER / "smp_losses.json").read_text())
SCORES = json.loads((FOLDER / "smp_metrics.json").read_text())
REGIONS = {"DiceLoss": "SoftTverskyLoss", "JaccardLoss": "JaccardLoss", "TverskyLoss": "SoftTverskyLoss"}


def ours(case: dict[str, Any]) -> dict[str, Any]:
    """Return our loss with the arguments of theirs."""
    given, mode = dict(case["kwargs"]), case["mode"]
    given.pop("ignore_index", None)  # an argument of the call here
    sigmoid = mode == "multilabel"
    match case["loss"]:
        case "DiceLoss" | "JaccardLoss" | "TverskyLoss":
            spec = {"type": REGIONS[case["loss"]], "divide_by": "chosen", "use_sigmoid": sigmoid}
            return {**spec, "classes": given.pop("classes", "present"), **given}
        case "FocalLoss":
            # Theirs has one loss for each class, and takes the mean of these.
            classes = case["logits_shape"][1]
            reduced = 1.0 if given.get("reduction", "mean") == "mean" else 1 / classes
            return {"type": "FocalLoss", "alpha": None, "avg_non_ignore": True, "loss_weight": reduced, **given}
        case "LovaszLoss":
            return {"type": "LovaszLoss", "loss_type": "multi_class" if mode == "multiclass" else "binary", **given}
        case "SoftBCEWithLogitsLoss":
            return {"type": "SoftBCELoss", **given}
        case "SoftCrossEntropyLoss":
            return {"type": "CrossEntropyLoss", "label_smoothing": given.pop("smooth_factor", 0.0), **given}
        case "MCCLoss":
            return {"type": "MCCLoss", "from_logits": False, **given}
    raise AssertionError(case["loss"])


def inputs(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    shape, draw = case["logits_shape"], np.random.RandomState(case["target_seed"])
    logits = 2 * np.random.RandomState(case["logits_seed"]).standard_normal(shape).astype(np.float32)
    n, k, h, w = shape
    if case["mode"] == "multiclass":
        target = draw.randint(0, k, (n, h, w))
    else:
        target = draw.uniform(size=(n, 1 if case["mode"] == "binary" else k, h, w)) < 0.3
    target = target.astype(np.int64)
    if case["ignore"] is not None:
        target[..., :5] = case["ignore"]
    target = target[:, 0] if case["mode"] == "binary" else target
    return torch.from_numpy(logits).requires_grad_(), torch.from_numpy(target)


@pytest.mark.parametrize("name", sorted({case["loss"] for case in LOSSES}))
def test_losses_and_their_gradients_are_the_references(name: str) -> None:
    wrong = []
    for case in (case for case in LOSSES if case["loss"] == name and "error" not in case):
        logits, target = inputs(case)
        loss = build("losses", ours(case))(logits, target)
        loss.backward()
        assert logits.grad is not None
        noise = np.random.RandomState(99).standard_normal(case["logits_shape"])
        fingerprint = float((logits.grad.double().numpy() * noise).sum() / np.linalg.norm(noise))
        norm = float(logits.grad.norm())
        close = abs(float(loss.detach()) - case["value"]) <= 1e-5 * max(1, abs(case["value"]))
        close &= abs(norm - case["grad_l2"]) <= 1e-4 * case["grad_l2"]
        close &= abs(fingerprint - case["grad_fingerprint"]) <= 1e-4 * case["grad_l2"]
        if not close:
            wrong.append((case["mode"], case["kwargs"], float(loss.detach()), case["value"], norm, case["grad_l2"]))
    assert not wrong


@pytest.mark.parametrize("case", SCORES, ids=lambda case: f"{case['mode']}-{case['ignore']}")
def test_scores_are_the_references(case: dict[str, Any]) -> None:
    rng, mode = np.random.RandomState(case["seed"]), case["mode"]
    if mode == "multiclass":
        true = rng.randint(0, 4, (3, 16, 20))
        predicted = np.where(rng.uniform(size=true.shape) < 0.6, true, rng.randint(0, 4, true.shape))
        if case["ignore"] is not None:
            true[..., :5] = case["ignore"]
    else:
        true = rng.uniform(size=(3, 1 if mode == "binary" else 4, 16, 20)) < 0.3
        predicted = (rng.uniform(size=true.shape) * 0.6 + 0.4 * true).astype(np.float32) >= 0.5
    if mode == "binary":
        true, predicted = true[:, 0], predicted[:, 0]
    classes = 1 if mode == "binary" else 4
    metric = ScoresMetric(
        scores=list({name.partition("/")[2]: None for name in case["scores"]}),
        reductions=list({name.partition("/")[0]: None for name in case["scores"]}),
        class_weight=[(i + 1) / 10 for i in range(classes)],
        beta=2,
        classes=["no", "yes"] if mode == "binary" else list("abcd"),
        task=mode,
    )
    for image, labels in zip(predicted, true, strict=True):
        metric.update(image.astype(np.uint8), labels.astype(np.uint8))
    assert [metric.counts()[i].tolist() for i in range(4)] == [case[name] for name in ("tp", "fp", "fn", "tn")]
    found = metric.compute()
    for name, expected in case["scores"].items():
        value = found[name.replace("/", "-")] / (1 if "likelihood" in name else 100)
        # Theirs divides the weighted mean over the classes by their number, once more.
        value /= classes if name.startswith("weighted-imagewise/") else 1
        assert value == pytest.approx(expected, rel=1e-5), name
