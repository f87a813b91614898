"""`cost_of` a packaged model, whose backbone is another package's."""

from __future__ import annotations

import pytest

from segkernel.config import load_config
from segplug_heads.commands.cost import cost_of


def test_a_models_parameters_and_operations_are_counted():
    config = load_config("quickstart")
    small, large = (cost_of(config, shape) for shape in ((64, 64), (128, 128)))
    assert small["parameters"] == large["parameters"] == "3,604,664"
    assert small["MACs"].endswith("for one image of 64 x 64")
    macs, flops, of_large = (float(text.split()[0]) for text in (small["MACs"], small["FLOPs"], large["FLOPs"]))
    assert flops == pytest.approx(2 * macs, abs=0.2)
    assert of_large == pytest.approx(4 * flops, abs=0.3)


def test_the_size_is_the_datas_unless_given():
    assert cost_of(load_config("quickstart"))["MACs"].endswith("192 x 256")
