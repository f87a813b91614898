"""A plain torch module that returns logits, as a segmentor: what `Runner` and `Predictor` make of one."""

from __future__ import annotations

from torch import Tensor, nn

from segkernel.errors import UsageError
from segkernel.interfaces.model import PixelClasses, Segmentor
from segkernel.nn import CrossEntropyLoss
from segkernel.sample import Targets


class PlainModule(Segmentor):
    """Predicts with a module, and trains it with cross-entropy; its state dict is the module's.

    Args:
        module: Normalised images (N, C, H, W) to logits (N, ``classes``, h, w) at any stride: a tensor, or a dict or an
            object with the key or attribute ``out`` or ``logits``.
        classes: Number of classes.
    """

    def __init__(self, module: nn.Module, classes: int) -> None:
        super().__init__()
        self.module, self.criterion = module, CrossEntropyLoss()
        self.outputs = {"seg": PixelClasses(classes, classes)}
        self.test_cfg = {"mode": "whole"}
        self.state_dict, self.load_state_dict = module.state_dict, module.load_state_dict  # type: ignore[method-assign]

    def forward(self, images: Tensor) -> Tensor:
        """Return the module's logits.

        Raises:
            UsageError: When it returns anything else.
        """
        found, count = self.module(images), self.outputs["seg"].classes
        # "out" as torchvision's models, ``logits`` as those of transformers; auxiliary outputs are not trained.
        logits = found.get("out", found.get("logits")) if isinstance(found, dict) else getattr(found, "logits", found)
        if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] != count:
            given = tuple(logits.shape) if isinstance(logits, Tensor) else f"{type(found).__name__} without 'out'"
            raise UsageError(f"{type(self.module).__name__} returns {given}, not logits (N, {count} classes, h, w)")
        return logits

    def loss(self, images: Tensor, targets: Targets | Tensor) -> dict[str, Tensor]:
        return {"loss_ce": self.criterion(self(images), Targets.of(targets, images)["seg"])}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"seg": self(images)}
