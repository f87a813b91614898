"""First values of parameters; every function changes the module in place and works on any device, ``meta`` included."""

from __future__ import annotations

from torch import nn


def kaiming_init(module: nn.Module, leaky_slope: float = 0.0) -> None:
    """Draw a convolution's kernel for rectified activations (He et al., 2015); its bias becomes 0."""
    if getattr(module, "weight", None) is not None:
        nn.init.kaiming_normal_(module.weight, a=leaky_slope, mode="fan_out", nonlinearity="leaky_relu")  # type: ignore[arg-type]
    zero_bias(module)


def normal_init(module: nn.Module, std: float = 0.01) -> None:
    """Draw the weight from a normal distribution; the bias becomes 0."""
    nn.init.normal_(module.weight, std=std)  # type: ignore[arg-type]
    zero_bias(module)


def trunc_normal_init(module: nn.Module, std: float = 0.02) -> None:
    """Draw the weight from a normal distribution cut at two deviations; the bias becomes 0."""
    nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)  # type: ignore[arg-type]
    zero_bias(module)


def zero_bias(module: nn.Module) -> None:
    """Set the bias to 0, where there is one."""
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
