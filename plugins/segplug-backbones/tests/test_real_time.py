"""The networks made for speed: maps at odd sizes, what they share, export, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from segkernel.errors import ConfigError
from segkernel.interfaces.model import Backbone
from segplug_backbones import (
    BiSeNetV1,
    BiSeNetV2,
    CGNet,
    DDRNet,
    ERFNet,
    ICNet,
    PIDNet,
    ResNet,
    ResNetV1c,
    STDCContextPathNet,
    STDCNet,
    stdc1,
    stdc2,
)
from segplug_backbones.icnet import WideMaxPool2d
from segplug_backbones.stdc import STDCModule

BN, RELU = {"type": "BN"}, {"type": "ReLU"}


def bisenetv1(**more) -> BiSeNetV1:
    inner = ResNet(18, base_channels=4, stem_channels=4)
    arguments = {"spatial_channels": (4, 4, 4, 8), "context_channels": (8, 16, 32), "out_channels": 16}
    return BiSeNetV1(inner, **{**arguments, **more})


def small_stdc(fusion: str = "cat", **more) -> STDCNet:
    return STDCNet("STDCNet1", 3, (4, 4, 16, 32, 64), fusion, BN, RELU, **more)


def context_path(**more) -> STDCContextPathNet:
    arguments = {
        "last_in_channels": (64, 32),
        "out_channels": 8,
        "ffm_cfg": {"in_channels": 24, "out_channels": 16},
    }
    return STDCContextPathNet(small_stdc(), **{**arguments, **more})


def icnet(**more) -> ICNet:
    inner = ResNetV1c(18, base_channels=4, stem_channels=4, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    arguments = {
        "layer_channels": (8, 32),
        "light_branch_middle_channels": 4,
        "psp_out_channels": 8,
        "out_channels": (4, 8, 8),
    }
    return ICNet(inner, **{**arguments, **more})


BUILDERS: dict[str, Callable[..., Backbone]] = {
    "bisenetv1": bisenetv1,
    "bisenetv2": lambda: BiSeNetV2(**BiSeNetV2.conformance),
    "stdc": context_path,
    "cgnet": lambda: CGNet(**CGNet.conformance),
    "erfnet": lambda: ERFNet(**ERFNet.conformance),
    "icnet": icnet,
    "ddrnet": lambda: DDRNet(channels=4, ppm_channels=4),
    "pidnet-s": lambda: PIDNet(channels=4, ppm_channels=4),
    "pidnet-l": lambda: PIDNet(channels=4, ppm_channels=4, num_stem_blocks=3, num_branch_blocks=4),
}
SMALLEST = {"ddrnet": 513, "pidnet-s": 513, "pidnet-l": 513}
"""Where an export with dynamic sizes is for images above 512 pixels only: in smaller ones the coarsest average of the
pyramid of pools is a single cell, and torch.export takes a side of one for a constant."""
every_network = pytest.mark.parametrize("name", BUILDERS)


@every_network
def test_odd_sizes_train(name: str) -> None:
    network = BUILDERS[name]().train()
    sum(m.square().mean() for m in network(torch.rand(2, 3, 65, 97))).backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.slow
@every_network
def test_exports_with_dynamic_sizes(name: str) -> None:
    network, least = BUILDERS[name]().eval(), SMALLEST.get(name, 64)
    sides = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=least), 3: torch.export.Dim("w", min=least)}
    program = torch.export.export(network, (torch.rand(2, 3, least + 7, least + 32),), dynamic_shapes=(sides,))
    images = torch.rand(1, 3, least + 33, least + 1)
    torch.testing.assert_close(program.module()(images), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@every_network
def test_traces_without_a_graph_break(name: str) -> None:
    network = BUILDERS[name]().eval()
    torch._dynamo.reset()  # every class counts towards one limit of recompilations
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    images = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), network(images), rtol=1e-4, atol=1e-5)


def test_bisenetv1_returns_the_maps_asked_for() -> None:
    network = bisenetv1(out_indices=(2, 0)).eval()
    assert (network.channels, network.strides) == ((8, 16), (16, 8))
    assert [tuple(m.shape[1:]) for m in network(torch.rand(1, 3, 64, 64))] == [(8, 4, 4), (16, 8, 8)]


def test_bisenetv2_joins_the_branches_first() -> None:
    network = BiSeNetV2(out_indices=(0, 4))
    assert (network.channels, network.strides) == ((128, 128), (8, 32))


def test_the_norm_reaches_every_layer() -> None:
    for network in (
        bisenetv1(norm_cfg={"type": "GN", "num_groups": 2}),
        DDRNet(norm_cfg={"type": "GN", "num_groups": 2}),
    ):
        inside = getattr(network, "context_path", None)
        of_inner = set(inside.backbone.modules()) if inside is not None else set()
        assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules() if m not in of_inner)


def test_stdc_variants_differ_in_depth() -> None:
    assert [len(stage) for stage in stdc1().stages[2:]] == [2, 2, 2]
    assert [len(stage) for stage in stdc2().stages[2:]] == [4, 5, 3]
    assert stdc2().channels == (256, 512, 1024)


def test_stdc_that_adds_names_its_shrinking_layer_twice() -> None:
    state = STDCModule(8, 16, 2, BN, RELU, fusion_type="add").state_dict()
    assert torch.equal(state["downsample.conv.weight"], state["layers.0.1.conv.weight"])
    assert "skip.1.bn.weight" in state


def test_stdc_with_a_final_convolution_is_1024_wide_at_least() -> None:
    network = small_stdc(with_final_conv=True).eval()
    assert network.channels == (16, 32, 1024)
    assert network(torch.rand(1, 3, 64, 64))[2].shape == (1, 1024, 2, 2)


def test_cgnet_keeps_its_norms_still_when_asked() -> None:
    norms = [m for m in CGNet(norm_eval=True).train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_cgnet_recomputes_to_the_same_gradients() -> None:
    images, gradients = torch.rand(2, 3, 32, 32), []
    for with_cp in (False, True):
        torch.manual_seed(0)
        network = CGNet(**CGNet.conformance, with_cp=with_cp).train()
        sum(m.square().mean() for m in network(images)).backward()
        gradients.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(*gradients)


def test_erfnet_normalises_with_its_own_epsilon() -> None:
    def epsilons(**more) -> set[float]:
        return {m.eps for m in ERFNet(**more).modules() if isinstance(m, nn.BatchNorm2d)}

    assert epsilons() == {1e-3}
    assert epsilons(norm_cfg={"type": "SyncBN"}) == {1e-3}
    assert epsilons(norm_cfg={"type": "BN", "eps": 1e-5}) == {1e-5}


@pytest.mark.parametrize("size", [(8, 9), (9, 8), (32, 33)])
def test_icnet_pools_like_torch_in_ceil_mode(size: tuple[int, int]) -> None:
    x = torch.randn(1, 2, *size)
    assert torch.equal(WideMaxPool2d()(x), nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=True))


@pytest.mark.parametrize("align_corners", [False, True])
def test_icnet_halves_as_interpolation_does(align_corners: bool) -> None:
    x = torch.randn(1, 3, 33, 20)
    expected = nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(icnet(align_corners=align_corners)._halve(x), expected)


def test_pidnet_is_light_with_two_stem_blocks() -> None:
    light, full = PIDNet(channels=8), PIDNet(channels=8, num_stem_blocks=3)
    assert hasattr(light.dfm, "f_p")
    assert hasattr(full.dfm, "conv")
    assert isinstance(full.spp.processes, nn.ModuleList)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: bisenetv1(context_channels=(8, 16, 16)), "context_channels.*its maps have"),
        (lambda: bisenetv1(spatial_channels=(4, 8)), "spatial_channels: .4, 8. must have 4"),
        (lambda: bisenetv1(out_indices=(3,)), "out_indices"),
        (lambda: BiSeNetV2(bga_channels=64), "detail_channels: .* must end with bga_channels, 64"),
        (lambda: BiSeNetV2(out_indices=(5,)), "out_indices"),
        (lambda: STDCNet("STDCNet3", 3, (4,) * 5, "cat", BN, RELU), "stdc_type: 'STDCNet3' is not"),
        (lambda: small_stdc("both"), "bottleneck_type: 'both' is not add or cat"),
        (lambda: small_stdc(num_convs=1), "num_convs"),
        (lambda: STDCNet("STDCNet1", 3, (4,) * 4, "cat", BN, RELU), "channels: .* must have 5"),
        (lambda: context_path(last_in_channels=(32, 64)), "last_in_channels.*coarsest first"),
        (lambda: STDCContextPathNet(stdc1()), "ffm_cfg.in_channels: 512, but the two maps have 384"),
        (lambda: CGNet(num_channels=(32, 64)), "num_channels: .* must be 3 numbers"),
        (lambda: CGNet(num_blocks=(0, 3)), "num_blocks"),
        (lambda: ERFNet(enc_stage_non_bottlenecks=(5, 7)), "not divisible by the number of dilations"),
        (lambda: ERFNet(dec_upsample_channels=(64,)), "dec_upsample_channels: .64. must have 2"),
        (lambda: ICNet(ResNet(18)), "take ResNetV1c or ResNetV1d"),
        (lambda: icnet(layer_channels=(8, 16)), "layer_channels.*its maps have"),
        (lambda: icnet(out_channels=(4, 8)), "out_channels: .* must have 3"),
        (lambda: PIDNet(num_stem_blocks=0), "num_stem_blocks: 0 blocks"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(build: Callable[[], Backbone], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        build()
