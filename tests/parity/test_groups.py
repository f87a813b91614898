"""Parameter groups of packaged experiments against MMSegmentation's."""

from __future__ import annotations

import json

import golden_groups
import pytest


@pytest.mark.parametrize(("name", "expected"), json.loads(golden_groups.TARGET.read_text()).items())
def test_parameters_learn_and_decay_as_in_the_reference(name: str, expected: list) -> None:
    assert golden_groups.check(name, expected).failures == []
