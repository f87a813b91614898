"""Initialisation of parameters, in place; works on any device, ``meta`` included."""

from __future__ import annotations

from torch import nn


def kaiming_init(module: nn.Module, leaky_slope: float = 0.0) -> None:
    """Draw the weight from He et al.'s normal distribution (2015), by fan-out, for ReLU; set the bias to 0.

    ``leaky_slope`` is the negative slope of a leaky ReLU that follows.
    """
    if getattr(module, "weight", None) is not None:
        nn.init.kaiming_normal_(module.weight, a=leaky_slope, mode="fan_out", nonlinearity="leaky_relu")  # type: ignore[arg-type]
    zero_bias(module)


def normal_init(module: nn.Module, std: float = 0.01) -> None:
    """Draw the weight from a normal distribution; set the bias to 0."""
    nn.init.normal_(module.weight, std=std)  # type: ignore[arg-type]
    zero_bias(module)


def trunc_normal_init(module: nn.Module, std: float = 0.02) -> None:
    """Draw the weight from a normal distribution truncated at two standard deviations; set the bias to 0."""
    nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)  # type: ignore[arg-type]
    zero_bias(module)


def zero_bias(module: nn.Module) -> None:
    """Set the bias to 0, if there is one."""
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
