"""Any model of timm that gives feature maps (Wightman, PyTorch Image Models, 2019).

    features = TIMMBackbone("convnext_tiny", pretrained=False)(torch.rand(2, 3, 512, 512))

Needs the package ``timm``: ``pip install "segplug-backbones[timm]"``. It is imported when a backbone is built.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from segkernel.errors import ComponentError, ConfigError, Problem, suggest
from segkernel.interfaces.model import Backbone
from segkernel.nn.layers import NORMS


class TimmMissingError(ComponentError):
    """The extra ``timm`` is not installed."""

    exit_code = 3

    def __init__(self, error: ImportError) -> None:
        message = f"TIMMBackbone needs timm: {error}\n    pip install 'segplug-backbones[timm]'"
        super().__init__("backbones", "TIMMBackbone", message)


class TIMMBackbone(Backbone):
    """Images (N, in_channels, H, W) to the maps of a timm model; channels and strides are those that it declares.

    Args:
        model_name: timm's name of the model.
        features_only: Must stay true: without it timm returns class scores.
        pretrained: Whether timm loads its own weights, from its cache or the network.
        checkpoint_path: A file of weights that timm loads instead.
        in_channels: Channels of the image.
        out_indices: The maps to return; timm's choice for None.
        output_stride: The coarsest stride, 8, 16 or 32, for models that can dilate.
        drop_path_rate: Share of images whose branch is dropped in training, for models that can.
        norm_layer: Kind of norm, by our name, ``SyncBN`` say, for models that let one choose.
        options: Further arguments of ``timm.create_model``.

    Raises:
        TimmMissingError: timm is not installed.
        ConfigError: An argument is out of range, or timm refuses it.
    """

    conformance: ClassVar = {"model_name": "resnet10t", "pretrained": False}
    conformance_exceptions: ClassVar = {} if importlib.util.find_spec("timm") else {"constructs": "timm is missing"}

    def __init__(
        self,
        model_name: str,
        features_only: bool = True,
        pretrained: bool = True,
        checkpoint_path: str = "",
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        output_stride: int | None = None,
        drop_path_rate: float | None = None,
        norm_layer: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not features_only:
            raise ConfigError(Problem("a backbone returns feature maps", "features_only", hint="leave it out"))
        wishes: dict[str, Any] = {
            "out_indices": None if out_indices is None else tuple(out_indices),
            "output_stride": output_stride,
            "drop_path_rate": drop_path_rate,
            "norm_layer": None if norm_layer is None else _norm_class(norm_layer),
        }
        arguments = {name: value for name, value in wishes.items() if value is not None} | dict(options or {})
        self.timm_model = _create(
            model_name,
            features_only=True,
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            in_chans=in_channels,
            **arguments,
        )
        self.channels = tuple(self.timm_model.feature_info.channels())
        self.strides = tuple(self.timm_model.feature_info.reduction())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        return tuple(self.timm_model(images))


def _create(model_name: str, **arguments: Any) -> Any:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise TimmMissingError(error) from error
    try:
        return timm.create_model(model_name, **arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(Problem(f"timm: {error}", "model_name", error=error)) from error


def _norm_class(name: str) -> type:
    if name not in NORMS:
        raise ConfigError(Problem(f"no norm is called {name!r}", "norm_layer", hint=suggest(name, NORMS)))
    return NORMS[name]
