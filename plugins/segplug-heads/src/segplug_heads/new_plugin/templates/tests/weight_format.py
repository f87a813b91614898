from __future__ import annotations

import torch

from segplug_my_model.weight_format import MyModelWeights, example


def test_converted_weights_load_strictly() -> None:
    module, weights = example()
    assert MyModelWeights().matches(module, weights.keys())
    converted = MyModelWeights().convert(module, weights)
    module.load_state_dict(converted, strict=True)
    torch.testing.assert_close(converted["weight"], module.state_dict()["weight"])


def test_other_weights_are_not_claimed() -> None:
    assert not MyModelWeights().matches(torch.nn.Linear(2, 2), ["encoder.weight"])
    assert not MyModelWeights().matches(torch.nn.Linear(2, 2), [])
