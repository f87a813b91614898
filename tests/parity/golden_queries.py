"""Comparison of the matching of queries with objects, and of query losses, with the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from golden import Report
from golden_components import GRADIENTS, VALUES, scores
from golden_names import translate
from torch import Tensor

from segkernel import build
from segplug_heads import HungarianAssigner
from segplug_heads.parts.matching import Objects, Queries

COSTS = 1e-5
"""Tolerance of costs, relative to max(1, cost)."""


def check_matching(case: Mapping[str, Any]) -> Report:
    """Compare the cost matrices and the matches of queries with objects."""
    report = Report()
    queries, objects = _queries_and_objects()
    costs = [build("parts", cost) for cost in translate(case["costs"])]
    for cost, expected in zip(costs, case["cost_matrices"], strict=True):
        difference = (cost(queries, objects) - torch.tensor(expected)).abs().max().item()
        report.compare("costs", type(cost).__name__, difference, COSTS * max(1.0, np.abs(expected).max()))
    query, index = HungarianAssigner(costs).assign(queries, objects)
    found = dict(zip(query.tolist(), index.tolist(), strict=True))
    expected = _matches(case)
    report.require(found == expected, f"queries {found}, not {expected}")
    return report


def check_loss(case: Mapping[str, Any]) -> Report:
    """Compare the value and the gradient of a loss of queries."""
    report = Report()
    logits = scores(**{**case["logits"], "shape": tuple(case["logits"]["shape"])}).requires_grad_()
    target, call = _target(case["call"])
    value = build("losses", translate(dict(case["cfg"])))(logits, target, **call)
    value.sum().backward()
    expected = case.get("value", case.get("sum"))
    report.require(list(value.shape) == case["shape"], f"shape {list(value.shape)}, not {case['shape']}")
    report.compare("losses", "value", abs(value.sum().item() - expected), VALUES * max(1.0, abs(expected)))
    assert logits.grad is not None
    difference = abs(logits.grad.double().norm().item() - case["grad_norm"])
    report.compare("gradients", "gradient", difference, GRADIENTS * case["grad_norm"])
    return report


def _queries_and_objects() -> tuple[Queries, Objects]:
    """Return the 12 queries and 5 objects of every case; the order of the draws matters."""
    draw = np.random.RandomState(73)
    classes, masks = draw.standard_normal((12, 8)), 2 * draw.standard_normal((12, 10, 11))
    labels, truth = draw.randint(0, 7, (5,)), draw.uniform(size=(5, 10, 11)) < 0.4
    tensors = (torch.from_numpy(array.astype(np.float32)) for array in (classes, masks, truth))
    classes, masks, truth = tensors
    return Queries(classes, masks), Objects(torch.from_numpy(labels), truth)


def _matches(case: Mapping[str, Any]) -> dict[int, int]:
    """Return query -> object."""
    if "matched_queries" in case:
        return dict(zip(case["matched_queries"], case["matched_gts"], strict=True))
    return {query: index - 1 for query, index in enumerate(case["gt_inds"]) if index > 0}


def _target(call: str) -> tuple[Tensor, dict[str, Any]]:
    """Return the target and the keyword arguments of a call that is given as text."""
    draw = np.random.RandomState(71)
    label = torch.from_numpy(draw.randint(0, 8, (40,)))
    target = torch.from_numpy(draw.randint(0, 2, (6, 200)).astype(np.float32))
    weight = torch.from_numpy(draw.uniform(0, 2, (40,)).astype(np.float32))
    keywords: dict[str, Any] = {"weight": weight} if "weight" in call else {}
    if "avg_factor=" in call:
        keywords["avg_factor"] = float(call.split("avg_factor=")[1].split(")")[0])
    if "label, " in call:
        return label, keywords
    if "1 - target" in call:
        return 1 - target.reshape(-1).long(), keywords
    return target.reshape(-1) if "reshape(-1)" in call else target, keywords
