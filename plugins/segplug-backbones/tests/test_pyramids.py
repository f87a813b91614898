"""HRNet, U-Net, ConvNeXt and PoolFormer: what the kit and the golden cases cannot know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import segplug_backbones
from segkernel.errors import ConfigError
from segkernel.interfaces.model import Backbone
from segplug_backbones import ConvNeXt, HRNet, PoolFormer, UNet
from segplug_backbones.convnext import ARCHS
from segplug_backbones.hrnet import hrnet_stages
from segplug_backbones.unet import DeconvModule, InterpConv

TINY = hrnet_stages(4, depth=1, modules=(1, 1, 1, 1), first=8)
CONVNEXT: Any = {"depths": [1, 1, 5, 1], "channels": [4, 4, 8, 8]}
POOLFORMER: Any = {
    "layers": [1, 1, 2, 1], "embed_dims": [4, 8, 8, 12], "mlp_ratios": [2] * 4, "layer_scale_init_value": 0.1
}  # fmt: skip


def convnext(**more: Any) -> ConvNeXt:
    return ConvNeXt(CONVNEXT, **{"out_indices": (0, 1, 2, 3), "gap_before_final_norm": False, **more})


def poolformer(**more: Any) -> PoolFormer:
    return PoolFormer(POOLFORMER, **{"out_indices": (0, 2, 3, 5), "frozen_stages": -1, **more})


BUILDERS: dict[str, Callable[..., Backbone]] = {
    "hrnet": lambda **more: HRNet(TINY, **more),
    "unet": lambda **more: UNet(base_channels=4, **more),
    "unet-deconv": lambda **more: UNet(base_channels=4, upsample_cfg={"type": "DeconvModule"}, **more),
    "convnext": convnext,
    "convnext-v2": lambda **more: convnext(use_grn=True, linear_pw_conv=False, layer_scale_init_value=0.0, **more),
    "poolformer": poolformer,
}
every_backbone = pytest.mark.parametrize("build", BUILDERS.values(), ids=list(BUILDERS))


EXPORTED_QUICKLY = ("unet-deconv", "convnext-v2")
"""Transposed convolutions are cut to a size, and a norm reaches over the whole map; what the others do is exported with
other backbones too."""


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(build, id=name, marks=() if name in EXPORTED_QUICKLY else pytest.mark.slow)
        for name, build in BUILDERS.items()
    ],
)
def test_exports_with_dynamic_sizes(build: Callable[..., Backbone]) -> None:
    backbone = build().eval()
    sides = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=64), 3: torch.export.Dim("w", min=64)}
    program = torch.export.export(backbone, (torch.rand(2, 3, 64, 96),), dynamic_shapes=(sides,))
    for size in ((97, 129), (65, 128)):
        images = torch.rand(3, 3, *size)
        torch.testing.assert_close(program.module()(images), backbone(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@every_backbone
def test_traces_without_a_graph_break(build: Callable[..., Backbone]) -> None:
    backbone = build().eval()
    torch._dynamo.reset()  # every class counts towards one limit of recompilations
    compiled = torch.compile(backbone, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in ((64, 64), (65, 97)):
            images = torch.rand(1, 3, *size)
            torch.testing.assert_close(compiled(images), backbone(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hrnet", "unet", "unet-deconv", "convnext"])
def test_recomputing_changes_no_gradient_and_no_statistics(name: str) -> None:
    plain, frugal = BUILDERS[name]().train(), BUILDERS[name](with_cp=True).train()
    frugal.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for backbone in (plain, frugal):
        sum(m.square().mean() for m in backbone(images.clone().requires_grad_())).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), frugal.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), frugal.buffers(), strict=True))


@pytest.mark.parametrize("name", ["hrnet", "unet"])
def test_batch_norm_stands_still_on_request(name: str) -> None:
    backbone = BUILDERS[name](norm_eval=True).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert backbone.training


@pytest.mark.parametrize(
    ("name", "frozen_stages", "frozen"),
    [
        ("hrnet", 0, {"conv1", "bn1", "conv2", "bn2"}),
        ("hrnet", 2, {"conv1", "bn1", "conv2", "bn2", "layer1", "transition1", "stage2", "transition2"}),
        ("hrnet", 4, set(dict(HRNet(TINY).named_children())) - {"relu"}),
        ("convnext", 0, set()),
        ("convnext", 2, {"downsample_layers.0", "downsample_layers.1", "stages.0", "stages.1"}),
        ("poolformer", 0, {"patch_embed"}),
        ("poolformer", 2, {"patch_embed", "network.0", "network.1"}),
    ],
)
def test_frozen_parts_neither_learn_nor_leave_evaluation(name: str, frozen_stages: int, frozen: set[str]) -> None:
    backbone = BUILDERS[name](frozen_stages=frozen_stages).train()
    depth = 1 if name == "hrnet" else 2
    still = {".".join(key.split(".")[:depth]) for key, p in backbone.named_parameters() if not p.requires_grad}
    assert still - {"patch_embed.proj"} == frozen - {"patch_embed"}
    assert all(not backbone.get_submodule(part).training for part in frozen)


@pytest.mark.parametrize(
    ("name", "millions"), [("w18_small", 3.86), ("w18", 9.56), ("w32", 29.31), ("w40", 45.52), ("w48", 65.33)]
)
def test_hrnet_widths_have_the_published_number_of_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        backbone = getattr(segplug_backbones, f"hrnet_{name}")()
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_hrnet_of_one_scale_returns_the_finest_branch_and_learns_everywhere() -> None:
    backbone = HRNet(TINY, multiscale_output=False)
    (fine,) = backbone(torch.rand(2, 3, 64, 64))
    assert (backbone.channels, backbone.strides, tuple(fine.shape)) == ((4,), (4,), (2, 4, 16, 16))
    fine.sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_hrnet_stages_may_change_the_width_and_the_kind_of_blocks() -> None:
    stages: Any = {name: dict(stage) for name, stage in TINY.items()}
    stages["stage3"] |= {"block": "BOTTLENECK", "num_channels": [6, 12, 24]}
    backbone = HRNet(stages).eval()
    assert [m.shape[1] for m in backbone(torch.rand(1, 3, 64, 64))] == [4, 8, 16, 32]


def test_hrnet_blocks_start_as_the_identity_on_request() -> None:
    weights = {key: p for key, p in HRNet(TINY, zero_init_residual=True).named_parameters() if key.endswith("weight")}
    assert not weights["layer1.0.bn3.weight"].any()
    assert not weights["stage4.0.branches.3.0.bn2.weight"].any()
    assert weights["stage4.0.branches.3.0.bn1.weight"].all()


def test_unet_stages_that_keep_their_size_are_joined_by_a_projection() -> None:
    backbone = UNet(base_channels=4, downsamples=(True, True, False, False)).eval()
    assert backbone.strides == (4, 4, 4, 2, 1)
    assert "decoder.3.upsample.conv.weight" in backbone.state_dict()
    assert [tuple(m.shape[2:]) for m in backbone(torch.rand(1, 3, 33, 50))] == [(8, 12)] * 3 + [(16, 25), (33, 50)]


def test_unet_has_the_keys_of_checkpoints() -> None:
    keys = UNet(base_channels=4).state_dict().keys()
    assert {"encoder.0.0.convs.0.conv.weight", "encoder.1.1.convs.1.bn.bias"} <= keys
    assert {"decoder.0.conv_block.convs.0.conv.weight", "decoder.3.upsample.interp_upsample.1.bn.weight"} <= keys
    keys = UNet(base_channels=4, upsample_cfg={"type": "DeconvModule"}).state_dict().keys()
    assert {"decoder.0.upsample.deconv_upsamping.0.bias", "decoder.0.upsample.deconv_upsamping.1.weight"} <= keys


def test_upsamplers_enlarge_by_their_factor() -> None:
    x = torch.rand(2, 4, 6, 8)
    assert DeconvModule(4, 2, kernel_size=6, scale_factor=4)(x).shape == (2, 2, 24, 32)
    assert InterpConv(4, 2, conv_first=True, kernel_size=3, padding=1)(x).shape == (2, 2, 12, 16)
    assert InterpConv(4, 2, upsample_cfg={"scale_factor": 3, "mode": "nearest"})(x).shape == (2, 2, 18, 24)


@pytest.mark.parametrize(
    ("arch", "millions"), [("tiny", 27.8), ("small", 49.5), ("base", 87.6), ("large", 196.2), ("xlarge", 348.1)]
)
def test_convnext_has_the_published_number_of_parameters(arch: Any, millions: float) -> None:
    with torch.device("meta"):
        backbone = ConvNeXt(arch)
    count = sum(p.numel() for p in backbone.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.1)
    assert backbone.channels == ARCHS[arch][1][-1:]


def test_convnext_pools_for_classification_unless_told_otherwise() -> None:
    (vector,) = ConvNeXt(CONVNEXT)(torch.rand(2, 3, 64, 64))
    assert vector.shape == (2, 8)


def test_convnext_computes_the_same_with_linear_layers_and_with_convolutions() -> None:
    torch.manual_seed(0)
    linear, conv = convnext(use_grn=True).eval(), convnext(use_grn=True, linear_pw_conv=False).eval()
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1 if parameter.ndim == 1 else 0.0)
    conv.load_state_dict({k: v.view(conv.state_dict()[k].shape) for k, v in linear.state_dict().items()})
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(conv(images), linear(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("parameter", "layer", "stage"),
    [
        ("downsample_layers.0.0.weight", 0, 0),
        ("downsample_layers.1.1.weight", 2, 0),
        ("downsample_layers.3.1.bias", 6, 0),
        ("stages.0.2.gamma", 1, 1),
        ("stages.1.0.gamma", 2, 2),
        ("stages.2.4.gamma", 4, 3),
        ("stages.3.0.gamma", 6, 4),
        ("norm3.weight", None, None),
    ],
)
def test_convnext_tells_its_layers_apart(parameter: str, layer: int | None, stage: int | None) -> None:
    assert convnext().layer_of(parameter, 6) == layer
    assert convnext().layer_of(parameter, 6, stage_wise=True) == stage


@pytest.mark.parametrize("name", ["convnext", "poolformer"])
def test_drop_path_grows_from_zero_to_its_rate(name: str) -> None:
    backbone = BUILDERS[name](drop_path_rate=0.4)
    rates = [m.drop_path.drop_prob for m in backbone.modules() if hasattr(m, "drop_path")]
    assert rates == pytest.approx([0.4 * i / (len(rates) - 1) for i in range(len(rates))])


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: HRNet({key: TINY[key] for key in ("stage1", "stage2")}), "stage3"),
        (lambda: HRNet({**TINY, "stage2": {**TINY["stage2"], "num_blocks": [1]}}), r"extra\.stage2\.num_blocks"),
        (lambda: HRNet({**TINY, "stage2": {**TINY["stage2"], "block": "BASICS"}}), "BOTTLENECK"),
        (lambda: HRNet(TINY, frozen_stages=5), "frozen_stages"),
        (lambda: UNet(num_stages=4), "strides"),
        (lambda: UNet(plugins=[{}]), "plugins"),
        (lambda: UNet(base_channels=4, upsample_cfg={"type": "InterpConv", "kernel": 3}), "kernel"),
        (lambda: DeconvModule(4, 4, kernel_size=3), "even"),
        (lambda: ConvNeXt("medium"), "tiny"),
        (lambda: ConvNeXt({"depths": [1, 2], "channels": [4]}), "one of each"),
        (lambda: ConvNeXt("tiny", out_indices=4), "out_indices"),
        (lambda: ConvNeXt("tiny", frozen_stages=-1), "frozen_stages"),
        (lambda: PoolFormer("s13"), "s12"),
        (lambda: PoolFormer({**POOLFORMER, "layers": [1]}), "layers"),
        (lambda: PoolFormer({"layers": [1]}), "embed_dims"),
        (lambda: PoolFormer("s12", out_indices=(0, 7)), "out_indices"),
    ],
)
def test_wrong_arguments_are_named(build: Callable[[], Backbone], word: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=word):
        build()


CLASSES = {name: getattr(segplug_backbones, name) for name in segplug_backbones.__all__}
DEPTHS = {"VGG": 11, **dict.fromkeys(("ResNet", "ResNetV1c", "ResNetV1d", "ResNeXt", "ResNeSt"), 50)}


@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("name", [name for name, backbone in CLASSES.items() if hasattr(backbone, "pyramid")])
def test_a_pyramid_has_a_map_for_each_halving(name: str, depth: int) -> None:
    arguments = {"depth": DEPTHS[name]} if name in DEPTHS else {}
    with torch.device("meta"):
        backbone = CLASSES[name](**arguments, **CLASSES[name].pyramid[depth])
        maps = backbone(torch.empty(2, 3, 64, 96))
    strides = [stride for stride in backbone.strides if stride <= 2**depth]
    assert strides == [2**i for i in range(1, depth + 1)][-len(strides) :]
    for found, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert found.shape == (2, channels, 64 // stride, 96 // stride)
