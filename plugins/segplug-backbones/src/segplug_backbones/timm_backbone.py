"""Any model of timm that returns feature maps (Wightman, PyTorch Image Models, 2019).

    features = TIMMBackbone("convnext_tiny", pretrained=False)(torch.rand(2, 3, 512, 512))

Needs the package ``timm``: ``pip install "segplug-backbones[timm]"``. It is imported when a backbone is built.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import FileName, PositiveInt, Probability
from segkernel.catalog import Catalog
from segkernel.errors import ComponentError, ConfigError, Problem, UsageError, suggest
from segkernel.interfaces.model import Backbone
from segkernel.nn.layers import NORMS
from segplug_backbones.adapters import Adapter

DYNAMIC_SIZE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},  # ViT, DeiT, DINOv2
    {"dynamic_img_size": True},
    {"strict_img_size": False},  # Swin, and others before they had dynamic_img_size
    {},  # convolutional networks take any size
)
"""Arguments by which timm's models take images of any size, the best first."""
_MISSING = next(
    (f"{name} is not installed" for name in ("timm", "torchvision") if not importlib.util.find_spec(name)), ""
)
"""Why timm cannot be imported; it needs torchvision, too."""


class TimmMissingError(ComponentError):
    """timm, or something that it needs, is not installed."""

    exit_code = 3

    def __init__(self, error: ImportError) -> None:
        message = f"TIMMBackbone needs timm: {error}\n    pip install 'segplug-backbones[timm]'"
        super().__init__("backbones", "TIMMBackbone", message)


class TIMMBackbone(Backbone):
    """Images (N, in_channels, H, W) to the feature maps of a timm model, with the channels and strides it declares.

    Any image size will do where timm can do it: models with position embeddings are built with ``dynamic_img_size`` and
    interpolate them, those with windows compute their attention masks for each size. Name ``dynamic_img_size`` or
    ``strict_img_size`` in ``options`` to decide otherwise; ``img_size`` there is the size to start from.

    Args:
        model_name: timm's name of the model; ``hf-hub:NAME`` and ``local-dir:PATH`` read files, which the config in a
            file of weights may not.
        features_only: Must be true: without it timm returns class logits.
        pretrained: Whether timm loads its pretrained weights, from its cache or the network.
        checkpoint_path: A file of weights that timm loads instead.
        in_channels: Channels of the image.
        out_indices: The maps to return; timm's choice for None.
        output_stride: The coarsest stride, 8, 16 or 32, for models that can be dilated.
        drop_path_rate: Drop path rate, for models that have one.
        norm_layer: Type of the norms by our name, such as ``SyncBN``, for models that let it be chosen.
        options: Further arguments of ``timm.create_model``.
        adapt: Parameters to add that train in place of the model's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        TimmMissingError: timm cannot be imported.
        ConfigError: An argument is out of range, or timm refuses it.
        UsageError: In the forward pass, the model refuses the size of the images.
    """

    # A convolutional network, windows with maps (N, H, W, C), and position embeddings with patches of 14 pixels.
    conformance: ClassVar = (
        {"model_name": "resnet10t", "pretrained": False},
        {
            "model_name": "swin_tiny_patch4_window7_224",
            "pretrained": False,
            "options": {"embed_dim": 24, "depths": [2, 2, 1, 1]},
        },
        {
            "model_name": "vit_small_patch14_dinov2",
            "pretrained": False,
            "out_indices": [1, 2],
            "options": {"img_size": 56, "embed_dim": 24, "depth": 3, "num_heads": 2},
        },
    )
    conformance_exceptions: ClassVar = {"constructs": _MISSING} if _MISSING else {}

    def __init__(
        self,
        model_name: str,
        features_only: bool = True,
        pretrained: bool = True,
        checkpoint_path: FileName = "",
        in_channels: PositiveInt = 3,
        out_indices: Sequence[int] | None = None,
        output_stride: PositiveInt | None = None,
        drop_path_rate: Probability | None = None,
        norm_layer: str | None = None,
        options: Mapping[str, Any] | None = None,
        adapt: Adapter | None = None,
    ) -> None:
        super().__init__()
        if ":" in model_name:
            Catalog.current().refuse_untrusted(f"the model {model_name}")
        if not features_only:
            raise ConfigError(Problem("a backbone returns feature maps", "features_only", hint="leave it out"))
        optional: dict[str, Any] = {
            "out_indices": None if out_indices is None else tuple(out_indices),
            "output_stride": output_stride,
            "drop_path_rate": drop_path_rate,
            "norm_layer": None if norm_layer is None else _norm_class(norm_layer),
        }
        self.model_name = model_name
        self.timm_model, dynamic = _create(
            model_name,
            features_only=True,
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            in_chans=in_channels,
            **{name: value for name, value in optional.items() if value is not None},
            **(options or {}),
        )
        self.channels = tuple(self.timm_model.feature_info.channels())
        self.strides = tuple(self.timm_model.feature_info.reduction())
        # Models that take any size, but do not pad it, refuse images that their patches do not divide.
        self._multiple = min(self.strides) if dynamic and "dynamic_img_pad" not in dynamic else 1
        # Transformers with windows work, and return their maps, as (N, H, W, C).
        self._channels_last = getattr(self.timm_model, "output_fmt", "NCHW") == "NHWC"
        if adapt is not None:
            adapt(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        if self._multiple > 1:
            bottom, right = (-size % self._multiple for size in images.shape[2:])
            images = F.pad(images, (0, right, 0, bottom))
        try:
            maps = self.timm_model(images)
        except (AssertionError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "must match the size" not in str(error):
                raise
            height, width = images.shape[2:]
            message = f"timm's {self.model_name} refuses images of {height} x {width} pixels: {error}"
            hint = "give it images of one size, and that size as options.img_size; or of sides that are multiples of "
            hint += f"{max(self.strides)}: data.preprocess.size_divisor"
            raise UsageError(f"{message}\n    {hint}") from error
        return tuple(x.permute(0, 3, 1, 2).contiguous() if self._channels_last else x for x in maps)


def _create(model_name: str, **arguments: Any) -> tuple[Any, Mapping[str, bool]]:
    """Return the model and those of `DYNAMIC_SIZE` that it was built with."""
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise TimmMissingError(error) from error
    chosen = {"dynamic_img_size", "strict_img_size"} & arguments.keys()
    for dynamic in ({},) if chosen else DYNAMIC_SIZE:
        try:
            return timm.create_model(model_name, **arguments, **dynamic), dynamic
        except TypeError as error:
            # timm does not say which model takes which argument: its constructor refuses, before weights are loaded.
            if "unexpected keyword argument" not in str(error) or not any(name in str(error) for name in dynamic):
                raise ConfigError(Problem(f"timm: {error}", "model_name", error=error)) from error
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ConfigError(Problem(f"timm: {error}", "model_name", error=error)) from error
    raise AssertionError("the last attempt adds no argument")


def _norm_class(name: str) -> type:
    if name not in NORMS:
        raise ConfigError(Problem(f"no norm is called {name!r}", "norm_layer", hint=suggest(name, NORMS)))
    return NORMS[name]
