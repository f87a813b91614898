"""Names of mmcv, mmengine and timm that code from MMSegmentation uses and segkernel spells differently.

``new-plugin --from`` writes those that the code needs. Prefer the names of segkernel.nn and torch in new code.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segkernel.nn import ConvModule, DepthwiseSeparableConvModule, read_class_weight, reduce_loss

ConfigType = Mapping[str, Any]
OptConfigType = Mapping[str, Any] | None
MultiConfig = Mapping[str, Any] | Sequence[Mapping[str, Any]]
OptMultiConfig = MultiConfig | None


class BaseModule(nn.Module):
    """A module that keeps ``init_cfg`` and does not apply it; initialise parameters in the constructor."""

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()
        self.init_cfg = init_cfg

    def init_weights(self) -> None:
        """Do nothing: a run does not call it."""


class Sequential(BaseModule, nn.Sequential):
    """``nn.Sequential`` with an ``init_cfg``."""

    def __init__(self, *modules: nn.Module, init_cfg: Any = None) -> None:
        nn.Sequential.__init__(self, *modules)
        self.init_cfg = init_cfg


class ModuleList(BaseModule, nn.ModuleList):
    """``nn.ModuleList`` with an ``init_cfg``."""

    def __init__(self, modules: Any = None, init_cfg: Any = None) -> None:
        nn.ModuleList.__init__(self, modules)
        self.init_cfg = init_cfg


class ModuleDict(BaseModule, nn.ModuleDict):
    """``nn.ModuleDict`` with an ``init_cfg``."""

    def __init__(self, modules: Any = None, init_cfg: Any = None) -> None:
        nn.ModuleDict.__init__(self, modules)
        self.init_cfg = init_cfg


class Scale(nn.Module):
    """Multiply by a learned number."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return x * self.scale


class ASPPModule(nn.ModuleList):
    """Parallel convolutions, one per dilation: (N, in_channels, h, w) -> a list of (N, channels, h, w)."""

    def __init__(
        self, dilations: Sequence[int], in_channels: int, channels: int, conv_cfg: Any, norm_cfg: Any, act_cfg: Any
    ) -> None:
        super().__init__()
        self.dilations, self.in_channels, self.channels = dilations, in_channels, channels
        self.conv_cfg, self.norm_cfg, self.act_cfg = conv_cfg, norm_cfg, act_cfg
        layers = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        for dilation in dilations:
            kernel_size, padding = (1, 0) if dilation == 1 else (3, dilation)
            options = {"dilation": dilation, "padding": padding, **layers}
            self.append(ConvModule(in_channels, channels, kernel_size, **options))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one map per dilation."""
        return [branch(x) for branch in self]


class DepthwiseSeparableASPPModule(ASPPModule):
    """`ASPPModule` with depthwise separable convolutions for dilations above 1."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for index, dilation in enumerate(self.dilations):
            if dilation > 1:
                options = {
                    "padding": dilation,
                    "dilation": dilation,
                    "norm_cfg": self.norm_cfg,
                    "act_cfg": self.act_cfg,
                }
                self[index] = DepthwiseSeparableConvModule(self.in_channels, self.channels, 3, **options)


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """Fill weight and bias."""
    if getattr(module, "weight", None) is not None:
        nn.init.constant_(module.weight, val)  # type: ignore[arg-type]
    fill_bias(module, bias)


def fill_bias(module: nn.Module, bias: float) -> None:
    """Fill the bias, if there is one."""
    if getattr(module, "bias", None) is not None:
        nn.init.constant_(module.bias, bias)  # type: ignore[arg-type]


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Draw the weight from a normal distribution."""
    if getattr(module, "weight", None) is not None:
        nn.init.normal_(module.weight, mean, std)  # type: ignore[arg-type]
    fill_bias(module, bias)


def trunc_normal_init(
    module: nn.Module, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, bias: float = 0
) -> None:
    """Draw the weight from a truncated normal distribution."""
    if getattr(module, "weight", None) is not None:
        nn.init.trunc_normal_(module.weight, mean, std, a, b)  # type: ignore[arg-type]
    fill_bias(module, bias)


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Draw the weight from a uniform distribution."""
    if getattr(module, "weight", None) is not None:
        nn.init.uniform_(module.weight, a, b)  # type: ignore[arg-type]
    fill_bias(module, bias)


def xavier_init(module: nn.Module, gain: float = 1, bias: float = 0, distribution: str = "normal") -> None:
    """Draw the weight by Glorot's rule."""
    draw = nn.init.xavier_uniform_ if distribution == "uniform" else nn.init.xavier_normal_
    if getattr(module, "weight", None) is not None:
        draw(module.weight, gain)  # type: ignore[arg-type]
    fill_bias(module, bias)


def kaiming_init(
    module: nn.Module,
    a: float = 0,
    mode: Any = "fan_out",
    nonlinearity: Any = "relu",
    bias: float = 0,
    distribution: str = "normal",
) -> None:
    """Draw the weight by He's rule."""
    draw = nn.init.kaiming_uniform_ if distribution == "uniform" else nn.init.kaiming_normal_
    if getattr(module, "weight", None) is not None:
        draw(module.weight, a, mode, nonlinearity)  # type: ignore[arg-type]
    fill_bias(module, bias)


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """Draw the weight as Caffe2 does."""
    kaiming_init(module, 1, "fan_in", "leaky_relu", bias, "uniform")


def bias_init_with_prob(prior_prob: float) -> float:
    """Return the bias with which a sigmoid is ``prior_prob``."""
    return -math.log((1 - prior_prob) / prior_prob)


def to_2tuple(x: Any) -> Any:
    """Return a pair: ``x`` twice, unless it is a sequence."""
    return tuple(x) if isinstance(x, Sequence) else (x, x)


def make_divisible(value: float, divisor: int, min_value: int | None = None, min_ratio: float = 0.9) -> int:
    """Round to a multiple of ``divisor``, but not below ``min_ratio * value``."""
    rounded = max(min_value or divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < min_ratio * value else rounded


def add_prefix(inputs: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Put a prefix and a dot before each key."""
    return {f"{prefix}.{name}": value for name, value in inputs.items()}


def get_root_logger(*args: Any, **kwargs: Any) -> logging.Logger:
    """Return the logger of this package."""
    return logging.getLogger(__name__)


def print_log(msg: str, logger: Any = None, level: int = logging.INFO) -> None:
    """Log a message."""
    logging.getLogger(__name__).log(level, msg)


def get_class_weight(class_weight: Any) -> Any:
    """Return class weights as a list, from a list or a file."""
    return read_class_weight(class_weight)


def weight_reduce_loss(
    loss: Tensor, weight: Tensor | None = None, reduction: Any = "mean", avg_factor: Any = None
) -> Tensor:
    """Multiply by the weight of each element, and reduce."""
    return reduce_loss(loss if weight is None else loss * weight, reduction, avg_factor)


def weighted_loss(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give a loss of single elements the arguments ``weight``, ``reduction`` and ``avg_factor``."""

    @functools.wraps(loss_func)
    def wrapper(
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
        avg_factor: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        return weight_reduce_loss(loss_func(pred, target, **kwargs), weight, reduction, avg_factor)

    return wrapper
