"""Modules of other libraries as segmentors, here of torch itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segkernel import build
from segkernel.errors import ConfigError, SegKernelError, UsageError
from segkernel.sample import Targets

CONV = {"type": "torch.nn:Conv2d", "in_channels": 3, "out_channels": 3, "kernel_size": 2, "stride": 2}


def model(**changes: Any) -> Any:
    return build("segmentors", {"type": "ModuleSegmentor", "module": CONV, "num_classes": 3, **changes})


def test_a_module_is_trained_with_the_losses_and_keeps_its_state_dict() -> None:
    segmentor = model(loss_decode=[{"type": "CrossEntropyLoss", "loss_weight": 2.0}, {"type": "DiceLoss"}])
    images, labels = torch.rand(2, 3, 8, 12), torch.randint(0, 3, (2, 8, 12))
    losses = segmentor.loss(images, labels)
    assert set(losses) == {"loss_ce", "loss_dice"}
    torch.testing.assert_close(losses["loss_ce"], 2 * model_like(segmentor).loss(images, labels)["loss_ce"])
    assert set(segmentor.state_dict()) == {"weight", "bias"}
    assert segmentor(images).shape == (2, 3, 4, 6)


def model_like(segmentor: Any) -> Any:
    """Return a segmentor with the default loss and the weights of another."""
    other = model()
    other.load_state_dict(segmentor.state_dict())
    return other


def test_the_weight_of_pixels_counts() -> None:
    images, labels = torch.rand(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    weights = torch.zeros(1, 4, 4)
    targets = Targets.of(labels, images)
    targets["weight"] = weights
    assert model().loss(images, targets)["loss_ce"] == 0


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ({"type": "ReLU"}, "is no import path: 'ReLU'"),
        ({**CONV, "stridee": 1}, "unexpected keyword argument 'stridee'"),
        ({"type": "math:sqrt"}, "math:sqrt"),
        ({"type": "builtins:dict"}, "returns dict, not a torch module"),
        ({"type": "torch.nn:NoSuchClass"}, "NoSuchClass"),
    ],
)
def test_what_is_no_module_is_refused(module: dict[str, Any], message: str) -> None:
    with pytest.raises(SegKernelError, match=message):
        model(module=module)


def test_other_channels_than_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="not logits \\(N, 5 classes, h, w\\)"):
        model(num_classes=5)(torch.rand(1, 3, 4, 4))


def test_the_path_of_a_config_is_named() -> None:
    with pytest.raises(ConfigError, match="module"):
        model(module={})
