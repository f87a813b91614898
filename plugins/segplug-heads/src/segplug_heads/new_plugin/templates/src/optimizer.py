"""An optimiser, used like those of torch.optim."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class MyModelOptimizer(Optimizer):
    """Lion (Chen et al., 2023, https://arxiv.org/abs/2302.06675): steps of the sign of the averaged gradient.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Averaging factors of the step and of the momentum.
        weight_decay: Decoupled weight decay; each step subtracts ``lr * weight_decay`` times the weight.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(momentum.lerp(parameter.grad, 1 - beta1).sign(), alpha=group["lr"])
                momentum.lerp_(parameter.grad, 1 - beta2)
