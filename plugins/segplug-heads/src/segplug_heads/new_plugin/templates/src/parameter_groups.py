"""Settings of single parameters: ``optim.paramwise: {type: MyModelParameterGroups}``."""

from __future__ import annotations

from typing import Any

from torch import nn

from segkernel.annotations import NonNegative


class MyModelParameterGroups:
    """No weight decay for biases and norms, another learning rate for the backbone.

    Args:
        backbone_mult: Factor of the learning rate of parameters whose name starts with ``backbone``.
    """

    def __init__(self, backbone_mult: NonNegative = 0.1) -> None:
        self.backbone_mult = backbone_mult

    def __call__(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return one group per parameter that is trained."""
        return [
            {
                "params": [parameter],
                "lr": lr * self.backbone_mult if name.startswith("backbone") else lr,
                "weight_decay": weight_decay if parameter.ndim > 1 else 0.0,
            }
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
