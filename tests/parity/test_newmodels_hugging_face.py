"""Models of transformers, built here from their configs, against what transformers computes."""

from __future__ import annotations

import pytest
from hugging_face import model_of

CASES = ["segformer_b0_hf"]


@pytest.mark.parametrize("from_file", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("name", CASES)
def test_model_gives_the_values_of_transformers(name: str, from_file: bool) -> None:
    case, model = model_of(name)
    case.load_into(model, from_file)
    outputs = {"logits": model(case.images)}
    assert case.failures(outputs, model=None if from_file else model) == []
