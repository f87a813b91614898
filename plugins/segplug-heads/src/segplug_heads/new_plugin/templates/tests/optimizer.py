from __future__ import annotations

import torch

from segplug_my_model.optimizer import MyModelOptimizer


def test_a_first_step_has_the_size_of_the_learning_rate() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = MyModelOptimizer([weight], lr=0.1)
    weight.grad = torch.tensor([5.0, -0.01, 0.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, -1.9, 3.0]))


def test_weight_decay_is_decoupled_from_the_gradient() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = MyModelOptimizer([weight], lr=0.1, weight_decay=0.5)
    weight.grad = torch.zeros(1)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.95]))
