from __future__ import annotations

import torch

from segplug_my_model.loss import MyModelLoss


def test_a_gamma_of_zero_is_the_cross_entropy() -> None:
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    torch.testing.assert_close(MyModelLoss(gamma=0)(logits, target), torch.nn.functional.cross_entropy(logits, target))


def test_sure_pixels_count_less() -> None:
    logits, target = torch.tensor([[[[4.0]], [[0.0]]]]), torch.zeros(1, 1, 1, dtype=torch.long)
    probability = logits.softmax(1)[0, 0, 0, 0]
    expected = (1 - probability) ** 2 * -probability.log()
    torch.testing.assert_close(MyModelLoss(gamma=2)(logits, target), expected)
