"""The depth head compared with the reference: depths, loss and gradients."""

from __future__ import annotations

import json
from pathlib import Path

import golden_weights
import numpy as np
import pytest
import torch

from segkernel import build
from segkernel.sample import Targets

COMPONENTS = Path(__file__).parent / "components"
CASES = json.loads((COMPONENTS / "vpd_depth_head.json").read_text())
STRIDE = 6
"""Stride of the stored rows and columns of the depth maps."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_depths_equal_the_reference(case: dict) -> None:
    head = build("heads", case["head"]).eval()
    state = head.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == case["state_dict"]
    head.load_state_dict(golden_weights.fill(state))
    shapes = zip(case["features"], case["feature_seeds"])
    features = [golden_weights.inputs(tuple(shape), seed) for shape, seed in shapes]

    depths = head(features)
    assert list(depths.shape) == case["out_shape"]
    expected = torch.from_numpy(np.load(COMPONENTS / "vpd_depth_head.npz")[case["name"]])
    torch.testing.assert_close(depths[..., ::STRIDE, ::STRIDE].detach(), expected, rtol=1e-4, atol=1e-4)

    truth = np.random.RandomState(4321).uniform(0.1, 9, (2, *case["out_shape"][2:])).astype(np.float32)
    losses = head.loss(features, Targets({"depth": torch.from_numpy(truth)}))
    assert losses["loss_silog"].item() == pytest.approx(case["losses"]["loss_silog"], abs=1e-4)
    losses["loss_silog"].backward()
    norm = torch.stack([p.grad.norm() for p in head.parameters()]).norm()
    assert norm.item() == pytest.approx(case["grad_norm"], rel=1e-3)
