"""A model of another library as a segmentor: of segmentation_models_pytorch, torchvision, transformers, or your own.

model:
  type: ModuleSegmentor
  module: {type: "segmentation_models_pytorch:Unet", encoder_name: resnet34, encoder_weights: null, classes: 3}
  num_classes: 3
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from segkernel.catalog import Catalog
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Loss, TestConfig
from segkernel.nn import StridedLogits, sum_by_name
from segkernel.plain import PlainModule
from segkernel.sample import Targets


class ModuleSegmentor(PlainModule):
    """Images (N, C, H, W), normalised -> logits (N, ``num_classes``, h, w) of a module that another library builds.

    The module returns a tensor, or a dict or an object with ``out`` or ``logits``. The state dict is the module's, so
    that its checkpoints load. Weights that the module itself reads or downloads are read whenever it is built.

    Args:
        module: ``type``, the import path of a class or function that returns the module, ``LIBRARY.MODULE:NAME``, and
            its arguments.
        num_classes: Number of classes.
        loss_decode: One loss or several; cross-entropy by default.
        test_cfg: Inference mode of `segkernel.inference`: whole images or sliding windows.

    Raises:
        ConfigError: ``type`` is no import path, the arguments do not fit, or the result is no torch module.
        UntrustedError: The config was read from a weights file that is not trusted.
    """

    conformance: ClassVar[Any] = {
        "module": {"type": "torch.nn:Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 1},
        "num_classes": 4,
    }

    def __init__(
        self,
        module: dict[str, Any],
        num_classes: int,
        loss_decode: Loss | Sequence[Loss] | None = None,
        test_cfg: TestConfig | None = None,
    ) -> None:
        super().__init__(_built(module), num_classes)
        self.test_cfg = test_cfg or self.test_cfg
        losses = [self.criterion] if loss_decode is None else loss_decode
        self.losses = nn.ModuleList(losses if isinstance(losses, Sequence) else [losses])

    def loss(self, images: Tensor, targets: Targets | Tensor) -> dict[str, Tensor]:
        targets = Targets.of(targets, images)
        labels, weight = targets["seg"], targets.get("weight")
        strided = StridedLogits(self(images), labels.shape[-2:], False)
        losses = cast("Sequence[Loss]", self.losses)
        return sum_by_name((each.name, strided.loss(each, labels, weight=weight)) for each in losses)


def _built(spec: dict[str, Any]) -> nn.Module:
    """Return the module that an import path and arguments make."""
    arguments = dict(spec)
    path = str(arguments.pop("type", ""))
    if ":" not in path:
        raise ConfigError(Problem(f"is no import path: {path!r}", "module.type", hint="LIBRARY.MODULE:NAME"))
    try:
        module = Catalog.current().load("layers", path)(**arguments)
    except TypeError as error:
        raise ConfigError(Problem(f"{path}: {error}", "module")) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(Problem(f"{path} returns {type(module).__name__}, not a torch module", "module.type"))
    return module
