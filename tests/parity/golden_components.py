"""Comparison of losses, accuracy and the pixel sampler with the reference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import golden_weights
import numpy as np
import torch
from golden import Report
from torch import Tensor

from segkernel import build
from segkernel.nn import CrossEntropyLoss, OHEMPixelSampler, accuracy

VALUES, GRADIENTS = 1e-5, 1e-4
"""Tolerances: relative to max(1, value), and to the norm."""
SHAPE = (2, 7, 24, 32)


def scores(shape: tuple[int, ...] = SHAPE, seed: int = 1234, scale: float = 3.0) -> Tensor:
    """Return the scores of a case."""
    return torch.from_numpy((scale * np.random.RandomState(seed).standard_normal(shape)).astype(np.float32))


def target_of(text: str) -> Tensor:
    """Return the target described in a case."""
    if text == "all 255":
        return torch.full((2, 24, 32), 255)
    if "uniform(size=" in text:
        return torch.from_numpy(np.random.RandomState(777).uniform(size=(2, 24, 32)) < 0.1).long()
    if "depth target" in text:
        return torch.from_numpy(np.random.RandomState(89).uniform(-0.5, 8, (2, 1, 24, 32)).astype(np.float32))
    if "target logits" in text:
        return scores((3, 7, 4, 5), 88, 1.0)
    if "one_hot" in text:
        ids = target_of("RandomState(4321).randint(0,7,(2,24,32))")
        return torch.nn.functional.one_hot(ids, 7).movedim(-1, 1).float()
    seed, classes, shape = re.search(r"RandomState\((\d+)\)\.randint\(0,(\d+),\(([\d,]+)\)\)", text).groups()  # type: ignore[union-attr]
    size = tuple(int(length) for length in shape.split(",") if length)
    drawn = torch.from_numpy(np.random.RandomState(int(seed)).randint(0, int(classes), size).astype(np.int64))
    if "[:,:,:10]=255" in text:
        drawn[:, :, :10] = 255
    return drawn.float() if "float" in text else drawn


def check_loss(case: Mapping[str, Any]) -> Report:
    """Compare a loss's value and gradient."""
    report = Report()
    logits = _scores_of(case).requires_grad_()
    value = build("losses", dict(case["cfg"]))(logits, target_of(case["labels"]), **_call(case))
    value.sum().backward()
    if "value" in case:
        difference = abs(value.item() - case["value"])
        report.compare("losses", "value", difference, VALUES * max(1.0, abs(case["value"])))
    else:
        report.require(list(value.shape) == case["shape"], f"shape {list(value.shape)}, not {case['shape']}")
        report.compare("losses", "sum", abs(value.sum().item() - case["sum"]), VALUES * abs(case["sum"]))
        every = value.detach().flatten()[::97][: len(case["every97"])]
        report.compare("losses", "pixels", (every - torch.tensor(case["every97"])).abs().max().item(), VALUES * 10)
    assert logits.grad is not None
    norm, expected = logits.grad.double().norm().item(), case.get("grad_norm", 0.0)  # missing if the loss has no graph
    report.compare("gradients", "gradient", abs(norm - expected), GRADIENTS * max(expected, 1e-6))
    return report


def check_accuracy(case: Mapping[str, Any], flat: bool) -> Report:
    """Compare percentages of correct pixels, or of correct rows if ``flat``."""
    report = Report()
    logits = scores((50, 7)) if flat else scores()
    target = target_of("RandomState(4321).randint(0,7,(50,))") if flat else golden_weights.labels(7, 2, 24, 32)
    topk = case["topk"] if isinstance(case["topk"], int) else tuple(case["topk"])
    ours = accuracy(logits, target, topk, case["thresh"], case.get("ignore_index"))
    for value, expected in zip(ours if isinstance(ours, list) else [ours], case["result"]):
        report.compare("accuracy", "percentage", abs(float(value) - expected), 1e-4)
    return report


def check_sampler(case: Mapping[str, Any], expected: np.ndarray) -> Report:
    """Compare the pixels that hard example mining keeps."""
    report = Report()
    sampler = OHEMPixelSampler(case["thresh"], case["min_kept"])
    ours = sampler.sample(scores(), golden_weights.labels(7, 2, 24, 32), [CrossEntropyLoss()], 255)
    report.require(int(ours.sum()) == case["kept"], f"{int(ours.sum())} pixels kept, not {case['kept']}")
    report.require(bool((ours.numpy() == expected).all()), f"{int((ours.numpy() != expected).sum())} pixels differ")
    return report


def _scores_of(case: Mapping[str, Any]) -> Tensor:
    """Return the scores of a loss case; depths are positive."""
    if "expr" in case["logits"]:
        return scores((2, 1, 24, 32), scale=1.0).abs() * 3 + 0.2
    return scores(**{**case["logits"], "shape": tuple(case["logits"]["shape"])})


def _call(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of the call."""
    call = dict(case.get("call") or {})
    if "given as weight=" in case["labels"]:
        classes = case["labels"].split("class label ")[1]
        call["weight"] = target_of(classes)
    elif "weight55" in str(call.get("weight")):
        call["weight"] = torch.from_numpy(np.random.RandomState(55).uniform(0, 2, (2, 24, 32)).astype(np.float32))
    return call
