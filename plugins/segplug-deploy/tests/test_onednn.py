"""Layers computed by oneDNN, and Winograd's convolutions: equal to those of torch, or left to it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segplug_deploy import winograd
from segplug_deploy.fusion import use_onednn
from segplug_deploy.onednn import ACTIVATIONS, OneDNNConv2d, OneDNNLinear, has_onednn
from segplug_deploy.winograd import WinogradConv2d, pays

pytestmark = pytest.mark.skipif(not has_onednn(), reason="torch has no oneDNN here")
LAST = torch.channels_last


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_a_convolution_is_that_of_torch(activation: type[nn.Module] | None, layout: torch.memory_format) -> None:
    act = activation() if activation else nn.Identity()
    images = noise(2, 6, 21, 18).to(memory_format=layout)
    for arguments in ({"padding": 1}, {"stride": 2, "bias": False}, {"groups": 3, "dilation": 2}, {"kernel_size": 1}):
        conv = nn.Conv2d(6, 9, **{"kernel_size": 3, **arguments})
        result = OneDNNConv2d.of(conv, act)(images)
        torch.testing.assert_close(result, act(conv(images)))
        assert type(conv) is nn.Conv2d


@torch.no_grad()
@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU(), nn.GELU(), nn.GELU("tanh")])
def test_a_linear_layer_is_that_of_torch(activation: nn.Module) -> None:
    for shape in ((5, 8), (2, 3, 4, 8), (8,), (0, 8)):
        rows, layer = noise(*shape), nn.Linear(8, 7)
        torch.testing.assert_close(OneDNNLinear.of(layer, activation)(rows), activation(layer(rows)))


def test_gradients_other_types_and_autocast_are_left_to_torch() -> None:
    conv, images = nn.Conv2d(3, 4, 3), noise(1, 3, 8, 8)
    faster = OneDNNConv2d.of(conv, nn.ReLU())
    faster(images).sum().backward()
    assert conv.weight.grad is not None
    with torch.no_grad():
        assert faster.double()(images.double()).dtype is torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert faster.float()(images).dtype is torch.bfloat16


CASES: list[dict[str, Any]] = [
    {"size": (32, 32)},
    {"size": (33, 30), "padding": 2, "dilation": 2},
    {"size": (21, 50), "padding": 0, "dilation": 3},
    {"size": (40, 23), "padding": 4, "dilation": 4},
    {"size": (7, 90), "padding": (1, 0), "bias": False},
    {"size": (30, 31), "padding": (12, 0), "dilation": (6, 1)},
    {"size": (9, 9), "padding": 2, "dilation": 5},
]


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_winograd_is_the_convolution(
    case: dict[str, Any], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "GROWTH", 0)
    monkeypatch.setattr(WinogradConv2d, "_tiles", lambda layer: 12)  # several strips also in small images
    arguments = {"padding": 1, **case}
    images = noise(2, 5, *arguments.pop("size")).to(memory_format=layout)
    conv = nn.Conv2d(5, 6, 3, **arguments)
    result = WinogradConv2d.of(conv, nn.ReLU())(images)
    torch.testing.assert_close(result, torch.relu(conv(images)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rounding_errors_of_winograd_are_a_few_times_those_of_the_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, images = nn.Conv2d(256, 64, 3, padding=1).to(memory_format=LAST), noise(1, 256, 32, 32).relu_()
    monkeypatch.setattr(winograd, "GROWTH", 0)
    exact = copy.deepcopy(conv).double()(images.double())
    direct, fast = ((layer(images) - exact).square().mean().sqrt() for layer in (conv, WinogradConv2d.of(conv)))
    assert 0 < fast < 8 * direct


def test_winograd_is_for_dense_3x3_convolutions_of_many_channels() -> None:
    refused = {
        "few channels": nn.Conv2d(64, 256, 3),
        "groups": nn.Conv2d(512, 512, 3, groups=2),
        "stride": nn.Conv2d(512, 512, 3, stride=2),
        "size": nn.Conv2d(512, 512, (3, 1)),
    }
    assert [name for name, conv in refused.items() if pays(conv)] == []
    assert pays(nn.Conv2d(512, 256, 3, dilation=2))


@torch.no_grad()
def test_small_images_are_convolved_directly_and_weights_are_transformed_once() -> None:
    layer = WinogradConv2d.of(nn.Conv2d(32, 16, 3, padding=1))
    layer(noise(1, 32, 19, 20))  # 36 x 32 x 16 transformed weights, 48 x 380 elements
    assert layer.matrices is None
    layer(noise(1, 32, 20, 20))
    first = layer.matrices
    layer(noise(2, 32, 60, 28))
    assert layer.matrices is first is not None
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(noise(1, 32, 20, 20)), layer(noise(1, 32, 20, 20)))


class Activations(nn.Module):
    """Activations that may become a part of the layer before them, and others that may not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 256, 3, 2, 1), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.SiLU())
        self.rows = nn.Sequential(nn.Linear(256, 8), nn.GELU())
        self.twice, self.kept = nn.Conv2d(8, 8, 1), nn.ReLU()  # its input is used twice
        self.changed, self.after = nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True)  # its input is used before it changes
        self.odd = nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect")

    def forward(self, images: Tensor) -> Tensor:
        x = self.rows(self.deep(self.stem(images)).movedim(1, -1)).movedim(-1, 1)
        x = self.twice(x)
        x = self.changed(self.kept(x) + x)
        before = x - 1
        return self.odd(self.after(x) + before)


@torch.no_grad()
@pytest.mark.parametrize("fast", [False, True])
def test_an_activation_is_fused_where_nothing_else_uses_its_input(fast: bool) -> None:
    model, images = Activations().eval(), noise(1, 3, 150, 140)
    wanted = model(images)
    assert use_onednn(model, winograd=fast) == 3
    assert [type(module).__name__ for module in (model.kept, model.after, model.odd)] == ["ReLU", "ReLU", "Conv2d"]
    assert type(model.deep[0]) is (WinogradConv2d if fast else OneDNNConv2d)
    torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-4)
