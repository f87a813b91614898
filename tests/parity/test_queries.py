"""Matching and losses of queries compared with the reference."""

from __future__ import annotations

import json
from pathlib import Path

import golden_queries
import pytest

COMPONENTS = Path(__file__).parent / "components"


def cases(name: str) -> list[dict]:
    return json.loads((COMPONENTS / name).read_text())["cases"]


@pytest.mark.parametrize("case", cases("hungarian.json"), ids=lambda case: case["name"])
def test_matching_equals_the_reference(case: dict) -> None:
    assert golden_queries.check_matching(case).failures == []


@pytest.mark.parametrize("case", cases("mmdet_losses.json"), ids=lambda case: case["cfg"]["type"])
def test_loss_of_queries_equals_the_reference(case: dict) -> None:
    assert golden_queries.check_loss(case).failures == []
