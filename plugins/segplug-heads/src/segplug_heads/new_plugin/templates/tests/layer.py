from __future__ import annotations

import torch

from segplug_my_model.layer import MyModelActivation


def test_it_adds_a_square_of_a_sine() -> None:
    x = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(MyModelActivation(2.0)(x), x + (2 * x).sin() ** 2 / 2)
