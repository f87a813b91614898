"""Layers built from plain dicts: ``norm_cfg``, ``act_cfg``, ``conv_cfg``, ``upsample_cfg``.

    name, norm = build_norm({"type": "GN", "num_groups": 32}, 256, postfix=1)     # "gn1", nn.GroupNorm(32, 256)

The types are MMSegmentation's. Any other type is looked up in the catalog's group ``layers``; its class may have an
``abbreviation``, the attribute under which a norm or a plugin is stored, and hence its prefix in state dicts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.errors import ConfigError, Problem, UnknownComponentError, did_you_mean
from segkernel.nn.deform_conv import DeformConv2d, ModulatedDeformConv2d
from segkernel.nn.drop_path import DropPath

LayerConfig = Mapping[str, Any]


class LayerConfigs(TypedDict, total=False):
    """The layer types that the convolutions of a model share, as keyword arguments of `ConvModule`."""

    conv_cfg: LayerConfig | None
    norm_cfg: LayerConfig | None
    act_cfg: LayerConfig | None


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``SyncBN``: ordinary batch norm on one process; an engine of several processes replaces it."""


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``, the GELU of CLIP (Radford et al., 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class LayerNorm2d(nn.LayerNorm):
    """``LN2d``: layer norm over the channels of (N, C, H, W), at each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


CONVS: dict[str, type[nn.Module]] = {
    "Conv": nn.Conv2d,
    "Conv1d": nn.Conv1d,
    "Conv2d": nn.Conv2d,
    "Conv3d": nn.Conv3d,
    "DCN": DeformConv2d,
    "DCNv2": ModulatedDeformConv2d,
}
NORMS: dict[str, type[nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "BN1d": nn.BatchNorm1d,
    "BN2d": nn.BatchNorm2d,
    "BN3d": nn.BatchNorm3d,
    "SyncBN": SyncBatchNorm2d,
    "MMSyncBN": SyncBatchNorm2d,
    "GN": nn.GroupNorm,
    "LN": nn.LayerNorm,
    "LN2d": LayerNorm2d,
    "IN": nn.InstanceNorm2d,
    "IN1d": nn.InstanceNorm1d,
    "IN2d": nn.InstanceNorm2d,
    "IN3d": nn.InstanceNorm3d,
}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "RReLU": nn.RReLU,
    "ReLU6": nn.ReLU6,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "QuickGELU": QuickGELU,
    "SiLU": nn.SiLU,
    "Swish": nn.SiLU,
    "Mish": nn.Mish,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "HSwish": nn.Hardswish,
}
UPSAMPLES: dict[str, type[nn.Module]] = {
    "nearest": nn.Upsample,
    "bilinear": nn.Upsample,
    "deconv": nn.ConvTranspose2d,
}
DROPOUTS: dict[str, type[nn.Module]] = {"Dropout": nn.Dropout, "DropPath": DropPath}

_HAVE_INPLACE = (nn.ReLU, nn.LeakyReLU, nn.RReLU, nn.ReLU6, nn.ELU, nn.SiLU, nn.Mish, nn.Hardswish)
_ABBREVIATIONS = (
    (nn.modules.instancenorm._InstanceNorm, "in"),  # before batch norm: some classes derive from both
    (nn.modules.batchnorm._BatchNorm, "bn"),
    (nn.GroupNorm, "gn"),
    (nn.LayerNorm, "ln"),
)


def build_conv(cfg: LayerConfig | None, *args: Any, **kwargs: Any) -> nn.Module:
    """Return the convolution of type ``cfg["type"]``, ``Conv2d`` for None; the other arguments are passed on to it."""
    cls, options = _resolve(cfg or {"type": "Conv2d"}, CONVS, "conv_cfg")
    return _construct("conv_cfg", cls, *args, **kwargs, **options)


def check_conv(cfg: LayerConfig | None) -> None:
    """Raise if a type of convolution is unknown."""
    if cfg is not None:
        _resolve(cfg, CONVS, "conv_cfg")


def build_norm(cfg: LayerConfig, channels: int, postfix: int | str = "") -> tuple[str, nn.Module]:
    """Return the name of a norm layer, which is its prefix in state dicts (``bn1``, ``gn``, ``ln``), and the layer.

    ``requires_grad: false`` in ``cfg`` freezes its parameters.
    """
    cls, options = _resolve(cfg, NORMS, "norm_cfg")
    requires_grad = options.pop("requires_grad", True)
    options.setdefault("eps", 1e-5)
    if cls is nn.GroupNorm:
        norm = _construct("norm_cfg", cls, num_channels=channels, **options)
    else:
        norm = _construct("norm_cfg", cls, channels, **options)
    for parameter in norm.parameters():
        parameter.requires_grad = requires_grad
    return f"{_abbreviation(cls)}{postfix}", norm


def build_activation(cfg: LayerConfig, inplace: bool = False) -> nn.Module:
    """Return the activation of type ``cfg["type"]``; ``inplace`` is passed on to those that support it."""
    cls, options = _resolve(cfg, ACTIVATIONS, "act_cfg")
    if inplace and issubclass(cls, _HAVE_INPLACE):
        options.setdefault("inplace", True)
    return _construct("act_cfg", cls, **options)


def build_upsample(cfg: LayerConfig, *args: Any, **kwargs: Any) -> nn.Module:
    """Return the upsampling layer of type ``cfg["type"]``; the other arguments are passed on to it."""
    cls, options = _resolve(cfg, UPSAMPLES, "upsample_cfg")
    if cls is nn.Upsample:
        options["mode"] = cfg["type"]
    return _construct("upsample_cfg", cls, *args, **{**kwargs, **options})


def build_dropout(cfg: LayerConfig | None) -> nn.Module:
    """Return ``Dropout`` or ``DropPath`` with its ``drop_prob``; the identity for None."""
    if cfg is None:
        return nn.Identity()
    cls, options = _resolve(cfg, DROPOUTS, "dropout_layer")
    if cls is nn.Dropout and "drop_prob" in options:
        options["p"] = options.pop("drop_prob")
    return _construct("dropout_layer", cls, **options)


def build_plugin(cfg: LayerConfig, in_channels: int, postfix: int | str = "") -> tuple[str, nn.Module]:
    """Return the name of a plugin of a residual block, its prefix in state dicts (``context_block``), and the plugin.

    Plugins are layers of the catalog's group ``layers`` and are passed ``in_channels``.
    """
    cls, options = _resolve(cfg, {}, "plugins")
    name = getattr(cls, "abbreviation", None) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
    return f"{name}{postfix}", _construct("plugins", cls, in_channels=in_channels, **options)


def _resolve(cfg: LayerConfig, known: Mapping[str, type[nn.Module]], path: str) -> tuple[Any, dict[str, Any]]:
    """Return the class for ``cfg["type"]`` and the remaining options."""
    if not isinstance(cfg, Mapping) or not isinstance(cfg.get("type"), str):
        raise ConfigError(
            Problem(f"{cfg!r} has no type", path, hint=f"write {{type: {next(iter(known), 'NAME')}, ...}}")
        )
    options = {key: value for key, value in cfg.items() if key != "type"}
    return known.get(cfg["type"]) or _from_catalog(cfg["type"], known, path), options


def _from_catalog(name: str, known: Mapping[str, type[nn.Module]], path: str) -> Any:
    from segkernel.catalog import Catalog

    catalog = Catalog.current()
    try:
        return catalog.load_row(catalog.find("layers", name, f"{path}.type"))
    except UnknownComponentError as error:
        near = [*did_you_mean(name, known), *error.near]
        raise UnknownComponentError("layers", name, near, ["segkernel.nn", *error.searched]) from None


def _construct(path: str, cls: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return cls(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError(Problem(f"{cls.__name__}: {error}", path)) from error


def _abbreviation(cls: type[nn.Module]) -> str:
    given = getattr(cls, "abbreviation", None)
    return given or next((short for base, short in _ABBREVIATIONS if issubclass(cls, base)), "norm_layer")
