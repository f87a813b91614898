"""`cost_of`: parameters and operations of a model, which is built without allocating its weights."""

from __future__ import annotations

from segkernel.config import load_config
from segplug_heads.commands.cost import cost_of


def test_a_model_that_is_not_there_gives_the_reason():
    config = load_config({"model": {"type": "Nonsense"}})
    assert "Nonsense" in cost_of(config)["parameters"]
