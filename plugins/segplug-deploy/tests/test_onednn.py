"""Layers computed by oneDNN, and Winograd's convolutions: equal to those of torch, or left to it."""

from __future__ import annotations

import copy
import pickle
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor, nn

from segkernel.nn import Concat
from segplug_deploy import chain, winograd
from segplug_deploy.chain import ConvChain
from segplug_deploy.concat import SplitConv
from segplug_deploy.fusion import chain_convolutions, split_concatenations, use_onednn
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
@pytest.mark.parametrize("both", [False, True])
def test_winograd_is_the_convolution(
    case: dict[str, Any], layout: torch.memory_format, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "MIN_CHANNELS_BOTH", 0 if both else 9)
    monkeypatch.setattr(winograd, "MIN_BOTH", 0)
    monkeypatch.setattr(winograd, "STRIP", 1000)  # several strips also in small images
    monkeypatch.setattr(winograd, "BLOCK", 4)
    arguments = {"padding": 1, **case}
    images = noise(2, 5, *arguments.pop("size")).to(memory_format=layout)
    conv = nn.Conv2d(5, 6, 3, **arguments)
    result = WinogradConv2d.of(conv, nn.ReLU())(images)
    torch.testing.assert_close(result, torch.relu(conv(images)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("both", [False, True])
def test_rounding_errors_of_winograd_are_a_few_times_those_of_the_convolution(
    both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv, images = nn.Conv2d(256, 64, 3, padding=1).to(memory_format=LAST), noise(1, 256, 32, 32).relu_()
    monkeypatch.setattr(winograd, "MIN_CHANNELS_BOTH", 0 if both else 1000)
    exact = copy.deepcopy(conv).double()(images.double())
    direct, fast = ((layer(images) - exact).square().mean().sqrt() for layer in (conv, WinogradConv2d.of(conv)))
    assert 0 < fast < (8 if both else 4) * direct


def test_winograd_is_for_dense_3x3_convolutions_of_many_channels() -> None:
    refused = {
        "few channels": nn.Conv2d(32, 256, 3),
        "groups": nn.Conv2d(512, 512, 3, groups=2),
        "stride": nn.Conv2d(256, 256, 3, stride=2),
        "size": nn.Conv2d(256, 256, (3, 1)),
    }
    assert [name for name, conv in refused.items() if pays(conv)] == []
    assert pays(nn.Conv2d(512, 256, 3, dilation=2))
    assert pays(nn.Conv2d(64, 64, 3))


@torch.no_grad()
def test_small_images_are_convolved_directly_and_weights_are_transformed_once() -> None:
    conv = nn.Conv2d(32, 16, 3, padding=1)
    layer, direct = WinogradConv2d.of(conv), OneDNNConv2d.of(conv)
    small, large = noise(1, 32, 15, 17), noise(1, 32, 16, 16)
    assert torch.equal(layer(small), direct(small))
    first = {**layer.transformed}
    assert not torch.equal(layer(large), direct(large))
    assert [*layer.transformed] == [False]
    assert layer.transformed[False] is first[False]
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert copied.transformed == {}
        assert torch.equal(copied(large), layer(large))


@torch.no_grad()
def test_winograd_is_along_both_axes_for_large_images_of_many_channels() -> None:
    layer = WinogradConv2d.of(nn.Conv2d(256, 256, 3, padding=1))
    found = []
    for size in (16, 45, 46):
        layer(noise(1, 256, size, size))
        found.append(sorted(layer.transformed))
    assert found == [[False], [False], [False, True]]


CHAINS: dict[str, list[dict[str, Any]]] = {
    "strides": [{"stride": 2, "padding": 1}, {"stride": 2}, {"kernel_size": 1}],
    "paddings": [{"padding": 3}, {"padding": (0, 2)}, {"padding": (2, 0), "kernel_size": 5}],
    "dilations": [{"dilation": 2, "padding": 2}, {"dilation": 3}, {"kernel_size": (1, 3), "groups": 4}],
    "large steps": [{"kernel_size": 1, "stride": 3}, {"kernel_size": 2, "stride": 3, "padding": 1}],
}


@torch.no_grad()
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("large", [0, 3000, 1 << 20])
def test_a_chain_in_strips_is_its_convolutions(name: str, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "LARGE", large)
    monkeypatch.setattr(chain, "STRIP", 500)
    monkeypatch.setattr(chain, "MIN_ROWS", 2)
    layers = [nn.Conv2d(4, 4, **{"kernel_size": 3, **arguments}) for arguments in CHAINS[name]]
    layers = [OneDNNConv2d.of(layer, nn.ReLU()) for layer in layers]
    for layout in (torch.contiguous_format, LAST):
        for size in ((1, 4, 61, 40), (2, 4, 40, 33), (1, 4, 13, 12)):
            images = noise(*size).to(memory_format=layout)
            torch.testing.assert_close(ConvChain(layers)(images), nn.Sequential(*layers)(images))


@torch.no_grad()
@pytest.mark.parametrize(("kernel_size", "rows"), [(1, 10), (3, 22)])
def test_strips_have_few_rows_where_they_share_none(
    kernel_size: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "LARGE", 0)
    monkeypatch.setattr(chain, "STRIP", 10 * 8 * 50)
    monkeypatch.setattr(chain, "MIN_ROWS", 20)
    layers = [OneDNNConv2d.of(nn.Conv2d(*sizes)) for sizes in ((3, 8, 1), (8, 4, kernel_size, 1, kernel_size // 2))]
    strips: list[int] = []
    layers[0].register_forward_hook(lambda module, args, result: strips.append(result.shape[2]))
    ConvChain(layers)(noise(1, 3, 80, 50))
    assert max(strips) == rows


@torch.no_grad()
def test_convolutions_that_nothing_else_uses_become_a_chain() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Dropout2d(),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 4, 1),
        nn.Sigmoid(),
        nn.Conv2d(4, 4, 1),
    ).eval()
    images = noise(1, 3, 64, 64)
    wanted = model(images)
    use_onednn(model)
    assert chain_convolutions(model) == 2
    assert [len(module.layers) for module in model if isinstance(module, ConvChain)] == [3]
    torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", [OneDNNConv2d, WinogradConv2d])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Hardswish(), None])
def test_a_concatenation_is_convolved_map_by_map(kind: type[OneDNNConv2d], activation: nn.Module | None) -> None:
    conv, maps = nn.Conv2d(100, 96, 3, padding=1), [noise(2, size, 17, 18, seed=size) for size in (64, 4, 32)]
    layer = kind.of(conv, activation)
    split, joined = SplitConv(layer, [64, 4, 32]), torch.cat(maps, 1)
    wanted = (activation or nn.Identity())(conv(joined))
    given: list[Any] = []

    def one_by_one() -> Any:
        for each in maps:
            assert all(before() is None for before in given)
            given.append(ref(copied := each.clone()))
            yield copied
            del copied

    torch.testing.assert_close(split(one_by_one()), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(joined), wanted, rtol=1e-4, atol=1e-4)


class Concatenations(nn.Module):
    """Concatenations that one convolution uses, that two use, and before a convolution in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.concats, self.stem = nn.ModuleList([Concat() for _ in range(3)]), nn.Conv2d(3, 4, 3, 2)
        self.once, self.grouped = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 1, groups=2)
        self.twice = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)])

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = self.once(self.concats[0](part for part in (x, x + 1)))
        x = self.grouped(self.concats[1]([x, x - 1]))
        x = self.concats[2]([x, 2 * x])
        return self.twice[0](x) + self.twice[1](x)


@torch.no_grad()
def test_a_concatenation_is_split_where_one_convolution_without_groups_uses_it() -> None:
    model, images = Concatenations().eval(), noise(1, 3, 40, 50)
    wanted = model(images)
    use_onednn(model)
    split_concatenations(model)
    kinds = [type(module).__name__ for module in (model.once, model.grouped, *model.twice, *model.concats)]
    assert kinds == ["SplitConv", *["OneDNNConv2d"] * 3, "Identity", "Concat", "Concat"]
    torch.testing.assert_close(copy.deepcopy(model)(images), wanted, rtol=1e-4, atol=1e-4)


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
