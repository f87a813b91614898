"""Checks of backbones, heads and segmentors, each on a component with one fault."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from segkernel.catalog import Catalog  # noqa: E402
from segkernel.interfaces.model import Features, PixelClasses  # noqa: E402
from segkernel.sample import Targets  # noqa: E402
from segkernel.testing import check_object  # noqa: E402
from segkernel.testing.toys import ToyBackbone, ToyHead, ToySegmentor  # noqa: E402


def failed(group: str, target: object) -> set[str]:
    return {result.check for result in check_object(group, target, catalog=Catalog()) if result.status == "failed"}


@pytest.mark.parametrize(
    ("group", "target"), [("backbones", ToyBackbone), ("heads", ToyHead), ("segmentors", ToySegmentor)]
)
def test_a_good_one_passes(group: str, target: object) -> None:
    assert failed(group, target) == set()


class WrongChannels(ToyBackbone):
    """Declares other channels than it has."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = (8, 8, 16, 32)


class DropsASample(ToyBackbone):
    """Returns the maps of the first image only."""

    def forward(self, images):
        return tuple(one[:1] for one in super().forward(images))


class WrongStrides(ToyBackbone):
    """Declares other strides than it has."""

    def __init__(self) -> None:
        super().__init__()
        self.strides = (4, 8, 16, 16)


class DropsAMap(ToyBackbone):
    """Returns fewer maps than declared."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return super().forward(images)[:3]


class OnlyColour(ToyBackbone):
    """Ignores in_channels."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(3)


class EvenOnly(ToyBackbone):
    """Cannot take odd sizes."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        halves = images[..., ::2, ::2] - images[..., 1::2, 1::2]
        return super().forward(images + 0 * halves.mean())


class Noisy(ToyBackbone):
    """Draws a random number when predicting."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return super().forward(images + torch.randn(()))


class Overwrites(ToyBackbone):
    """Changes its input."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return super().forward(images.mul_(0.5))


class LeaksBatch(ToyBackbone):
    """Uses the batch's statistics when predicting."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return super().forward(images - images.mean())


class Unused(ToyBackbone):
    """Has an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(3))


class HiddenState(ToyBackbone):
    """Keeps a weight outside the state."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = [torch.randn(())]
        with torch.no_grad():
            self.scale[0].copy_(self.stages[0][0].weight.sum())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(images * self.calls)


class ReadsValues(ToyBackbone):
    """Reads the value of a tensor while being built."""

    def __init__(self) -> None:
        super().__init__(channels=tuple(int(width) for width in torch.tensor([8, 8])))


class PinnedDevice(ToyBackbone):
    """Puts a parameter on a fixed device."""

    def __init__(self) -> None:
        super().__init__()
        self.stages[0][0].bias = nn.Parameter(torch.zeros(8, device="cpu"))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (WrongChannels, {"outputs"}),
        (DropsASample, {"outputs"}),
        (WrongStrides, {"outputs", "odd-size"}),
        (DropsAMap, {"gradients", "outputs"}),
        (OnlyColour, {"in-channels"}),
        (EvenOnly, {"odd-size"}),
        (Noisy, {"deterministic", "no-random", "batch-independent", "state-dict"}),
        (Overwrites, {"batch-independent", "deterministic", "input-kept", "state-dict"}),
        (LeaksBatch, {"batch-independent"}),
        (Unused, {"gradients"}),
        (HiddenState, {"batch-independent", "deterministic", "state-dict"}),
        (ReadsValues, {"meta"}),
        (PinnedDevice, {"meta"}),
    ],
)
def test_a_faulty_backbone_fails_the_expected_checks(target: Any, expected: set[str]) -> None:
    assert failed("backbones", target) == expected


class OneClassTooMany(ToyHead):
    """Adds a class."""

    def __init__(self, in_channels: int = 8, num_classes: int = 4) -> None:
        super().__init__(in_channels, num_classes + 1)


class WrongOutput(ToyHead):
    """Declares another number of channels than it has."""

    def __init__(self, in_channels: int = 8, num_classes: int = 4) -> None:
        super().__init__(in_channels, num_classes)
        self.output = PixelClasses(num_classes, 1)


class NoLossKey(ToyHead):
    """Names its loss so that it is not summed."""

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return {"ce": super().loss(features, targets)["loss_ce"]}


class MapLoss(ToyHead):
    """Returns a loss per pixel."""

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return {"loss_ce": self(features)}


class NanLoss(ToyHead):
    """Divides by zero."""

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        return {"loss_ce": self(features).mean() * float("nan")}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (OneClassTooMany, {"classes"}),
        (WrongOutput, {"classes"}),
        (NoLossKey, {"loss", "gradients"}),
        (MapLoss, {"all-ignored", "gradients", "loss"}),
        (NanLoss, {"all-ignored", "loss"}),
    ],
)
def test_a_head_that_is_wrong_fails_there(target: Any, expected: set[str]) -> None:
    assert failed("heads", target) == expected


class UndeclaredOutput(ToySegmentor):
    """Predicts an output that it does not declare."""

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"seg": self(images), "edge": self(images)}


def test_a_segmentor_with_an_undeclared_output_fails() -> None:
    assert failed("segmentors", UndeclaredOutput) == {"outputs"}


class Multi(ToyHead):
    """Takes several maps."""

    conformance: ClassVar = [{"in_channels": [8, 16], "num_classes": 3}]

    def __init__(self, in_channels: list[int], num_classes: int) -> None:
        super().__init__(in_channels[0], num_classes)
        self.second = nn.Conv2d(in_channels[1], num_classes, 1)

    def forward(self, features: Features) -> Tensor:
        first, second = features
        return self.conv_seg(first) + self.second(second).mean((2, 3), keepdim=True)


def test_a_head_of_several_maps_gets_them() -> None:
    assert failed("heads", Multi) == set()
