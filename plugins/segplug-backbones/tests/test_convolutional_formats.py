"""Light and plain convolutional networks in the formats of torchvision and timm: ours compute what theirs do.

Theirs are written out as functions that make up each weight, under its name there, when they first need it. Images have
odd sizes, for which padding as TensorFlow does is that on all sides.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel import build
from segkernel.interfaces.model import Backbone
from segkernel.weights import convert, load_weights
from segplug_backbones import (
    MSCAN,
    VGG,
    ConvNeXt,
    EfficientNet,
    HRNet,
    MobileNetV2,
    MobileNetV3,
    PoolFormer,
    ResNeSt,
    ResNet,
    ResNeXt,
    ShuffleNetV2,
    StrideFormer,
    SwinTransformer,
)
from segplug_backbones.mobilenet_v3 import ARCHS
from segplug_backbones.squeeze import make_divisible

Activation = Callable[[Tensor], Tensor]
Pair = tuple[str, str]


def image(side: int = 33) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def converted(module: nn.Module, weights: dict[str, Tensor], format: str) -> nn.Module:
    """Load weights of another format into a module, all of them, and return it."""
    found = convert(module, weights)
    assert found.format == format
    report = load_weights(module, found.weights, mode="finetune")
    assert (report.fresh, report.reshaped) == ((), ())
    return module.eval()


class Made(dict[str, Tensor]):
    """Weights, each made up when it is first needed."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def get_or_make(self, name: str, *shape: int, around: float = 0.0, spread: float = 0.3) -> Tensor:
        if name not in self:
            self[name] = around + spread * torch.randn(shape, generator=self.generator).clamp(-2, 2)
        return self[name]

    def conv(self, x: Tensor, name: str, channels: int, kernel: int = 1, bias: bool = False, **how: int) -> Tensor:
        inputs = x.shape[1] // how.get("groups", 1)
        spread = (inputs * kernel * kernel) ** -0.5
        weight = self.get_or_make(f"{name}.weight", channels, inputs, kernel, kernel, spread=spread)
        offset = self.get_or_make(f"{name}.bias", channels) if bias else None
        return F.conv2d(x, weight, offset, padding=how.get("dilation", 1) * (kernel // 2), **how)

    def norm(self, x: Tensor, name: str, eps: float = 1e-5) -> Tensor:
        parts = {"running_mean": 0.0, "running_var": 1.0, "weight": 1.0, "bias": 0.0}
        values = [self.get_or_make(f"{name}.{part}", x.shape[1], around=start) for part, start in parts.items()]
        self.setdefault(f"{name}.num_batches_tracked", torch.tensor(1))
        return F.batch_norm(x, *values, eps=eps)

    def conv_norm(self, x: Tensor, names: Pair, channels: int, kernel: int = 1, **how: int) -> Tensor:
        return self.norm(self.conv(x, names[0], channels, kernel, **how), names[1])


# ---------------------------------------------------------------- inverted residuals


class Block(NamedTuple):
    """A block of a network, and where it stands: all are counted, and those of its stage."""

    number: int
    stage: int
    index: int
    kernel: int
    width: int
    channels: int
    stride: int
    squeeze: int
    act: Activation
    expands: bool
    dilation: int = 1


Names = Callable[[Block], tuple[list[Pair], list[str]]]
"""Of a block's convolutions with their norms, and of the two layers that weigh channels."""


def torchvision_v2(block: Block) -> tuple[list[Pair], list[str]]:
    at, last = f"features.{block.number}.conv", 1 + block.expands
    pairs = [(f"{at}.{i}.0", f"{at}.{i}.1") for i in range(last)]
    return [*pairs, (f"{at}.{last}", f"{at}.{last + 1}")], []


def torchvision(block: Block, staged: bool = False) -> tuple[list[Pair], list[str]]:
    at = f"features.{block.stage}.{block.index}.block" if staged else f"features.{block.number}.block"
    middle = 1 + block.expands
    numbers = [*range(middle), middle + bool(block.squeeze)]
    return [(f"{at}.{i}.0", f"{at}.{i}.1") for i in numbers], [f"{at}.{middle}.fc1", f"{at}.{middle}.fc2"]


def torchvision_staged(block: Block) -> tuple[list[Pair], list[str]]:
    return torchvision(block, staged=True)


def timm(block: Block) -> tuple[list[Pair], list[str]]:
    at = f"blocks.{block.stage - 1}.{block.index}"
    convs = ["conv_pw", "conv_dw", "conv_pwl"] if block.expands else ["conv_dw", "conv_pw"]
    pairs = [(f"{at}.{conv}", f"{at}.bn{i}") for i, conv in enumerate(convs, start=1)]
    return pairs, [f"{at}.se.conv_reduce", f"{at}.se.conv_expand"]


def run_block(made: Made, x: Tensor, block: Block, names: Names, inner: Activation, gate: Activation) -> Tensor:
    (*expansion, filtering, narrowing), weighing = names(block)
    y = block.act(made.conv_norm(x, expansion[0], block.width)) if expansion else x
    how = {"stride": block.stride, "groups": block.width, "dilation": block.dilation}
    y = block.act(made.conv_norm(y, filtering, block.width, block.kernel, **how))
    if block.squeeze:
        factor = inner(made.conv(y.mean((2, 3), keepdim=True), weighing[0], block.squeeze, bias=True))
        y = y * gate(made.conv(factor, weighing[1], block.width, bias=True))
    y = made.conv_norm(y, narrowing, block.channels)
    return x + y if block.stride == 1 and x.shape == y.shape else y


def mobilenet_v2_blocks() -> Iterator[Block]:
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    inputs, number = 32, 0
    for stage, (expansion, channels, count, stride) in enumerate(plan, start=1):
        for i in range(count):
            number += 1
            width, step = expansion * inputs, stride if i == 0 else 1
            yield Block(number, stage, i, 3, width, channels, step, 0, F.relu6, expansion > 1)
            inputs = channels


def mobilenet_v3_blocks(arch: str) -> Iterator[Block]:
    """Yield the blocks as ours has them, dilated where they would stride to 16 and 32."""
    rows, _, (two, four) = ARCHS[arch]
    inputs, number = 16, 0
    for stage, (channels, group) in enumerate(itertools.groupby(rows, lambda row: row[2]), start=1):
        for i, (kernel, width, _, weighted, act, stride) in enumerate(group):
            number += 1
            dilation = 1 if number < two else 2 if number < four else 4
            squeeze = make_divisible(width // 4, 8) if weighted else 0
            step = 1 if number in (two, four) else stride
            activation = F.relu if act == "ReLU" else F.hardswish
            yield Block(number, stage, i, kernel, width, channels, step, squeeze, activation, width != inputs, dilation)
            inputs = channels


def efficientnet_blocks() -> Iterator[Block]:
    plan = ((3, 16, 1, 1, 1), (3, 24, 2, 6, 2), (5, 40, 2, 6, 2), (3, 80, 2, 6, 3))
    plan += ((5, 112, 1, 6, 3), (5, 192, 2, 6, 4), (3, 320, 1, 6, 1))
    inputs, number = 32, 0
    for stage, (kernel, channels, stride, expansion, count) in enumerate(plan, start=1):
        for i in range(count):
            number += 1
            width, step = expansion * inputs, stride if i == 0 else 1
            yield Block(number, stage, i, kernel, width, channels, step, inputs // 4, F.silu, expansion > 1)
            inputs = channels


class Network(NamedTuple):
    """A network of theirs: its blocks, what stands before and behind them, and ours."""

    blocks: Sequence[Block]
    names: Names
    stem: tuple[Pair, int]
    last: tuple[Pair, int] | None
    acts: tuple[Activation, Activation, Activation]
    """Of the stem and the last convolution, and of the two layers that weigh channels."""
    ours: Callable[[], Backbone]
    format: str


TV, TIMM = ("features.0.0", "features.0.1"), ("conv_stem", "bn1")
HARD = (F.hardswish, F.relu, F.hardsigmoid)
SMOOTH = (F.silu, F.silu, torch.sigmoid)
SIX = (F.relu6, F.relu6, F.relu6)


def mobilenet_v2() -> Backbone:
    return MobileNetV2(out_indices=(6,))


def mobilenet_v3_small() -> Backbone:
    return MobileNetV3("small", out_indices=(12,))


def mobilenet_v3_large() -> Backbone:
    return MobileNetV3("large", out_indices=(16,))


def efficientnet() -> Backbone:
    return EfficientNet("b0", norm_cfg={"type": "BN"})


V2, SMALL, LARGE = list(mobilenet_v2_blocks()), list(mobilenet_v3_blocks("small")), list(mobilenet_v3_blocks("large"))
B0 = list(efficientnet_blocks())
NETWORKS = {
    "torchvision-v2": Network(V2, torchvision_v2, (TV, 32), None, SIX, mobilenet_v2, "TorchvisionMobileNetV2"),
    "timm-v2": Network(V2, timm, (TIMM, 32), None, SIX, mobilenet_v2, "TimmInvertedResiduals"),
    "torchvision-v3-small": Network(SMALL, torchvision, (TV, 16), (("features.12.0", "features.12.1"), 576), HARD,
                                    mobilenet_v3_small, "TorchvisionInvertedResiduals"),
    "torchvision-v3-large": Network(LARGE, torchvision, (TV, 16), (("features.16.0", "features.16.1"), 960), HARD,
                                    mobilenet_v3_large, "TorchvisionInvertedResiduals"),
    "timm-v3-large": Network(LARGE, timm, (TIMM, 16), (("blocks.6.0.conv", "blocks.6.0.bn1"), 960), HARD,
                             mobilenet_v3_large, "TimmInvertedResiduals"),
    "torchvision-b0": Network(B0, torchvision_staged, (TV, 32), (("features.8.0", "features.8.1"), 1280), SMOOTH,
                              efficientnet, "TorchvisionInvertedResiduals"),
    "timm-b0": Network(B0, timm, (TIMM, 32), (("conv_head", "bn2"), 1280), SMOOTH, efficientnet,
                       "TimmInvertedResiduals"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_inverted_residuals(name: str) -> None:
    network, made = NETWORKS[name], Made()
    act, inner, gate = network.acts
    (names, channels), x = network.stem, image()
    x = act(made.conv_norm(x, names, channels, 3, stride=2))
    for block in network.blocks:
        x = run_block(made, x, block, network.names, inner, gate)
    if network.last is not None:
        x = act(made.conv_norm(x, *network.last))
    made["classifier.weight"] = torch.zeros(10, 10)
    model = converted(network.ours(), {f"module.{key}": value for key, value in made.items()}, network.format)
    assert x.abs().max() > 1e-2
    torch.testing.assert_close(model(image())[-1], x, rtol=1e-4, atol=1e-4)


def test_edge_blocks_of_timm() -> None:
    model = EfficientNet("es", out_indices=(5, 6))
    names = {"conv1.conv": "conv_exp", "conv1.bn": "bn1", "conv2.conv": "conv_pwl", "conv2.bn": "bn2",
             "expand_conv.conv": "conv_pw", "expand_conv.bn": "bn1", "depthwise_conv.conv": "conv_dw",
             "depthwise_conv.bn": "bn2", "linear_conv.conv": "conv_pwl", "linear_conv.bn": "bn3"}  # fmt: skip
    ends = {"layers.0.conv": "conv_stem", "layers.0.bn": "bn1", "layers.6.conv": "conv_head", "layers.6.bn": "bn2"}
    theirs = {}
    for key, value in model.state_dict().items():
        layer, _, leaf = key.rpartition(".")
        if layer in ends:
            theirs[f"{ends[layer]}.{leaf}"] = value
            continue
        stage, index, inner = layer.removeprefix("layers.").split(".", 2)
        place = (int(stage) - 1, int(index))
        if stage == "4" and place[1] >= 5:  # two rows of blocks of the same stride: five of one, four of the other
            place = (4, place[1] - 5)
        elif stage == "5":
            place = (5, place[1])
        theirs[f"blocks.{place[0]}.{place[1]}.{names[inner]}.{leaf}"] = value
    fresh = converted(EfficientNet("es", out_indices=(5, 6)), theirs, "TimmInvertedResiduals")
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in model.state_dict().items())


# ---------------------------------------------------------------- others


@pytest.mark.parametrize("norm", [True, False])
def test_vgg_of_torchvision(norm: bool) -> None:
    made, x, number = Made(), image(32), 0
    for channels in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
        if channels == "pool":
            x, number = F.max_pool2d(x, 2), number + 1
            continue
        x = made.conv(x, f"features.{number}", channels, 3, bias=True)
        x = made.norm(x, f"features.{number + 1}") if norm else x
        x, number = x.relu(), number + 2 + norm
    made["classifier.0.weight"] = torch.zeros(10, 10)
    model = VGG(11, norm_cfg={"type": "BN"} if norm else None)
    torch.testing.assert_close(converted(model, made, "TorchvisionVGG")(image(32))[-1], x, rtol=1e-4, atol=1e-5)


def test_convolutions_of_a_vgg_fit_even_where_it_has_norms_and_the_file_has_none() -> None:
    file = {f"features.{i}.{leaf}": torch.zeros(1) for i in (0, 3) for leaf in ("weight", "bias")}
    file |= {"features.0.weight": torch.ones(64, 3, 3, 3), "features.3.weight": torch.ones(128, 64, 3, 3)}
    found = convert(VGG(11, norm_cfg={"type": "BN"}), file)
    assert set(found.weights) == {f"features.{i}.conv.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")}


def shuffle_block(made: Made, x: Tensor, at: str, channels: int, stride: int) -> Tensor:
    def branch(x: Tensor, name: str, inputs: int, places: Sequence[int]) -> Tensor:
        """Run a depthwise convolution and what stands around it; its place is the one before the last."""
        *first, middle, last = places
        for place in first:
            x = made.conv_norm(x, (f"{at}.{name}.{place}", f"{at}.{name}.{place + 1}"), inputs).relu()
        how = {"stride": stride, "groups": inputs}
        x = made.conv_norm(x, (f"{at}.{name}.{middle}", f"{at}.{name}.{middle + 1}"), inputs, 3, **how)
        return made.conv_norm(x, (f"{at}.{name}.{last}", f"{at}.{name}.{last + 1}"), channels // 2).relu()

    kept, seen = x.chunk(2, 1) if stride == 1 else (branch(x, "branch1", x.shape[1], (0, 2)), x)
    joined = torch.cat([kept, branch(seen, "branch2", channels // 2, (0, 3, 5))], 1)
    return joined.unflatten(1, (2, channels // 2)).transpose(1, 2).flatten(1, 2)


def test_shufflenet_of_torchvision() -> None:
    made = Made()
    x = made.conv_norm(image(), ("conv1.0", "conv1.1"), 24, 3, stride=2).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, (channels, count) in enumerate(((48, 4), (96, 8), (192, 4)), start=2):
        for i in range(count):
            x = shuffle_block(made, x, f"stage{stage}.{i}", channels, 2 if i == 0 else 1)
    x = made.conv_norm(x, ("conv5.0", "conv5.1"), 1024).relu()
    model = converted(ShuffleNetV2(0.5), made, "TorchvisionShuffleNetV2")
    torch.testing.assert_close(model(image())[-1], x, rtol=1e-4, atol=1e-5)


MSCAN_SIZES = {"embed_dims": (8, 8, 16, 16), "depths": (1, 2, 1, 1), "norm_cfg": {"type": "BN"}}


@pytest.mark.parametrize("whole", [False, True])
def test_mscan_of_its_authors(whole: bool) -> None:
    class Whole(nn.Module):
        """The parts of a segmentor that the format looks at."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.decode_head = MSCAN(**MSCAN_SIZES), nn.Conv2d(16, 5, 1)

    module = Whole() if whole else MSCAN(**MSCAN_SIZES)
    own = module.state_dict()
    theirs = {key.replace("mlp.dwconv.", "mlp.dwconv.dwconv."): value for key, value in own.items()}
    fresh = converted(Whole() if whole else MSCAN(**MSCAN_SIZES), theirs, "OfficialMSCAN")
    assert all(torch.equal(value, own[key]) for key, value in fresh.state_dict().items())


SAME = (ConvNeXt, EfficientNet, HRNet, MobileNetV2, MobileNetV3, PoolFormer, ResNeSt, ResNet, ResNeXt, ShuffleNetV2,
        SwinTransformer, VGG)  # fmt: skip
"""Whose names are mmpretrain's, too."""


@pytest.mark.parametrize("kind", SAME, ids=lambda kind: kind.__name__)
def test_a_classifier_of_mmpretrain_has_our_backbones(kind: type[Backbone]) -> None:
    example = kind.conformance if isinstance(kind.conformance, dict) else kind.conformance[0]
    module = build("backbones", {"type": kind.__name__, **example})
    own = {key: value + 1 for key, value in module.state_dict().items()}
    file = {f"backbone.{key}": value for key, value in own.items()}
    file |= {"head.fc.weight": torch.zeros(10, 6), "neck.gap.weight": torch.zeros(1)}
    found = convert(module, file)
    assert found.format == ""
    module.load_state_dict(found.weights)
    assert all(torch.equal(value, own[key]) for key, value in module.state_dict().items())


def test_strideformer_takes_the_names_of_mmsegmentations_project():
    backbone = StrideFormer(**StrideFormer.conformance)
    theirs = {}
    for key, value in backbone.state_dict().items():
        key = re.sub(r"\.attn\.(proj\w*)\.1\.(c|bn)\.", r".attn.\1.\2.", key)
        key = re.sub(r"\.mlp\.dwconv\.", ".mlp.dwconv.conv.", key)
        theirs[key.replace(".c.", ".conv.").replace(".mid_se.conv", ".mid_se.conv_act")] = value
    assert "smb1.blocks.0.mid_se.conv_act2.conv.bias" in theirs
    assert "trans2.transformer_blocks.0.attn.proj_encode_row.conv.weight" in theirs
    converted = convert(backbone, theirs)
    assert converted.format == "MMSegmentationStrideFormer"
    assert converted.weights.keys() == backbone.state_dict().keys()
