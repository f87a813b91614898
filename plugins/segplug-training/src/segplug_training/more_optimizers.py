"""LAMB and Muon, from the package pytorch-optimizer: ``pip install 'segplug-training[optimizers]'``.

    optim:
      optimizer: {type: Lamb, lr: 3e-3, weight_decay: 0.02}

The package is imported when an optimiser is built.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch

from segkernel.annotations import NonNegative, Positive, PositiveInt, Probability
from segkernel.errors import ComponentError

PACKAGE = "pytorch_optimizer"


class PackageMissingError(ComponentError):
    """pytorch-optimizer is not installed."""

    exit_code = 3

    def __init__(self, name: str, error: ImportError) -> None:
        message = f"{name} needs pytorch-optimizer: {error}\n    pip install 'segplug-training[optimizers]'"
        super().__init__("optimizers", name, message)


def Lamb(
    params: Sequence[Any],
    lr: NonNegative = 1e-3,
    betas: tuple[Probability, Probability] = (0.9, 0.999),
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:
    """LAMB: Adam whose step is scaled to the norm of each weight tensor, for large batches.

    Large Batch Optimization for Deep Learning, You et al., 2020 (https://arxiv.org/abs/1904.00962).

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Decay rates of the averages of the gradient and of its square.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.

    Raises:
        PackageMissingError: When pytorch-optimizer is not installed.
    """
    kind = _optimizer("Lamb")
    return kind(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def Muon(
    params: Sequence[Any],
    lr: NonNegative = 1e-3,
    momentum: Probability = 0.95,
    weight_decay: NonNegative = 0.0,
    nesterov: bool = True,
    ns_steps: PositiveInt = 5,
    betas: tuple[Probability, Probability] = (0.9, 0.95),
    eps: Positive = 1e-10,
) -> torch.optim.Optimizer:
    """Muon for matrices and convolutions, whose steps are orthogonalised; AdamW for biases, norms and other vectors.

    Steps of Muon are scaled to the size of AdamW's (Muon is Scalable for LLM Training, Liu et al., 2025,
    https://arxiv.org/abs/2502.16982), so that a learning rate of AdamW suits all parameters. `torch/Muon` is torch's,
    which takes matrices only.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        momentum: Momentum of Muon.
        weight_decay: Decoupled weight decay.
        nesterov: Whether Muon uses Nesterov's momentum.
        ns_steps: Newton-Schulz iterations per step.
        betas: Decay rates of AdamW.
        eps: Added to AdamW's denominator.

    Raises:
        PackageMissingError: When pytorch-optimizer is not installed.
    """
    kind, usual = _optimizer("Muon"), {"lr": lr, "weight_decay": weight_decay}
    of_muon = {"use_muon": True, "momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
    of_adamw = {"use_muon": False, "betas": betas, "eps": eps}
    groups = []
    for group in params if isinstance(params[0], dict) else [{"params": params}]:
        for options in (of_muon, of_adamw):
            chosen = [each for each in group["params"] if (each.ndim > 1) is options["use_muon"]]
            groups += [{**usual, **group, **options, "params": chosen}] if chosen else []
    made = kind(groups, use_adjusted_lr=True)
    made.defaults.update(usual)
    return made


def _optimizer(name: str) -> Any:
    try:
        return getattr(importlib.import_module(PACKAGE), name)
    except ImportError as error:
        raise PackageMissingError(name, error) from error


if importlib.util.find_spec(PACKAGE) is None:
    for optimizer in (Lamb, Muon):
        absent = dict.fromkeys(("descends", "resume"), "pytorch-optimizer is not installed")
        setattr(optimizer, "conformance_exceptions", absent)  # noqa: B010 (a function's attribute)
