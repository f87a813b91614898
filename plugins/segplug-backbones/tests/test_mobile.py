"""MobileNetV2, MobileNetV3, ShuffleNetV2, EfficientNet and VGG."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkernel.errors import ConfigError
from segplug_backbones import (
    VGG,
    EfficientNet,
    MobileNetV2,
    MobileNetV3,
    MobileViT,
    MobileViTV2,
    ShuffleNetV2,
)
from segplug_backbones.mobilevit import ARCHS, fold, unfold

SMALL = {
    "v2": lambda **more: MobileNetV2(0.1, **more),
    "v3": lambda **more: MobileNetV3(**more),
    "shuffle": lambda **more: ShuffleNetV2(0.5, **more),
    "efficient": lambda **more: EfficientNet(**more),
    "vgg": lambda **more: VGG(11, num_stages=3, dilations=(1, 1, 1), norm_cfg={"type": "BN"}, out_indices=(2,), **more),
}
every = pytest.mark.parametrize("build", SMALL.values(), ids=list(SMALL))


def parameters(cls, *args, **kwargs):
    with torch.device("meta"):
        return sum(p.numel() for p in cls(*args, **kwargs).parameters())


def classifier(width):
    """The last layer of a classifier of 1,000 classes."""
    return 1000 * width + 1000


PUBLISHED = [  # parameters of the classifiers, less what is no part of the trunk
    (MobileNetV2, (1.0,), 3504872 - classifier(1280) - 1282 * 320 - 1280 * 2 + 640),
    (MobileNetV3, ("small",), 2542856 - classifier(1024) - 577 * 1024),
    (MobileNetV3, ("large",), 5483032 - classifier(1280) - 961 * 1280),
    (ShuffleNetV2, (0.5,), 1366792 - classifier(1024)),
    (ShuffleNetV2, (1.0,), 2278604 - classifier(1024)),
    (ShuffleNetV2, (1.5,), 3503624 - classifier(1024)),
    (ShuffleNetV2, (2.0,), 7393996 - classifier(2048)),
    (EfficientNet, ("b0",), 5288548 - classifier(1280)),
    (EfficientNet, ("b1",), 7794184 - classifier(1280)),
    (EfficientNet, ("b2",), 9109994 - classifier(1408)),
    (EfficientNet, ("b3",), 12233232 - classifier(1536)),
    (EfficientNet, ("b4",), 19341616 - classifier(1792)),
    (EfficientNet, ("b5",), 30389784 - classifier(2048)),
    (EfficientNet, ("b6",), 43040704 - classifier(2304)),
    (EfficientNet, ("b7",), 66347960 - classifier(2560)),
    (VGG, (11,), 9220480),
    (VGG, (13,), 9404992),
    (VGG, (16,), 14714688),
    (VGG, (19,), 20024384),
]


def test_trunks_have_the_published_number_of_parameters():
    assert [(cls, args, parameters(cls, *args)) for cls, args, _ in PUBLISHED] == PUBLISHED


@pytest.mark.parametrize(("arch", "millions"), [("es", 5.44), ("em", 6.90), ("el", 10.59)])
def test_edge_networks_have_the_published_number_of_parameters(arch, millions):
    width = 1536 if arch == "el" else 1280
    assert (parameters(EfficientNet, arch) + classifier(width)) / 1e6 == pytest.approx(millions, abs=0.005)


def test_keys_are_those_of_the_checkpoints():
    keys = MobileNetV2(0.1).state_dict().keys()
    assert {"conv1.bn.bias", "layer1.0.conv.1.conv.weight", "layer2.1.conv.2.bn.running_mean"} <= keys
    keys = MobileNetV3().state_dict().keys()
    assert {"layer1.se.conv2.conv.bias", "layer2.expand_conv.bn.weight", "layer12.conv.weight"} <= keys
    assert "layer1.expand_conv.conv.weight" not in keys
    keys = ShuffleNetV2(0.5).state_dict().keys()
    assert {"layers.0.0.branch1.1.conv.weight", "layers.2.3.branch2.2.bn.bias", "layers.3.conv.weight"} <= keys
    assert "layers.0.1.branch1.0.conv.weight" not in keys
    keys = EfficientNet("b0").state_dict().keys()
    assert {"layers.0.conv.weight", "layers.2.1.depthwise_conv.conv.weight", "layers.4.5.se.conv1.conv.bias"} <= keys
    assert {"layers.1.0.conv1.conv.weight", "layers.3.3.conv2.bn.weight"} <= EfficientNet("es").state_dict().keys()
    assert VGG(11).state_dict().keys() >= {"features.0.conv.weight", "features.11.conv.bias"}


def test_channels_and_strides():
    backbone = MobileNetV2(strides=(1, 2, 2, 1, 1, 1, 1), dilations=(1, 1, 1, 2, 2, 4, 4))
    assert (backbone.channels, backbone.strides) == ((24, 32, 96, 320), (4, 8, 8, 8))
    backbone = MobileNetV3("large", out_indices=range(17), reduction_factor=2)
    assert backbone.channels == (16, 16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 80, 80, 80, 960)
    assert backbone.strides == (2, 2, 4, 4, *[8] * 13)
    backbone = EfficientNet("b3", out_indices=range(7))
    assert backbone.channels == (40, 24, 32, 48, 136, 384, 1536)
    assert backbone.strides == (2, 2, 4, 8, 16, 32, 32)
    assert VGG(16, out_indices=(2, 4), with_last_pool=False).strides == (8, 16)


@pytest.mark.parametrize(("arch", "first", "second"), [("small", 4, 9), ("large", 7, 13)])
def test_mobilenet_v3_dilates_where_it_once_strided(arch, first, second):
    backbone = MobileNetV3(arch)
    convs = [getattr(backbone, f"layer{i}").depthwise_conv.conv for i in range(1, backbone.num_layers - 1)]
    dilations = [conv.dilation[0] for conv in convs]
    assert dilations == [1] * (first - 1) + [2] * (second - first) + [4] * (len(convs) - second + 1)
    assert all(conv.stride == (1, 1) for conv in convs[first - 1 :])


def test_only_the_first_block_of_a_mobilenet_v2_stage_is_dilated():
    stage = MobileNetV2(0.1, dilations=(1, 1, 1, 2, 1, 1, 1)).layer4
    assert [block.conv[1].conv.dilation[0] for block in stage] == [2, 1, 1, 1]


def test_shuffled_channels_come_from_both_halves():
    block = ShuffleNetV2(0.5).layers[0][1].eval()
    x = torch.rand(1, 48, 5, 5)
    assert torch.equal(block(x)[:, ::2], x[:, :24])


def test_channel_weights_of_efficientnet_follow_the_input_of_the_block():
    layers = EfficientNet("b0").layers
    assert layers[2][0].se.conv1.conv.out_channels == 16 // 4
    assert layers[1][0].se.conv1.conv.out_channels == 32 // 4


def test_efficientnet_drops_more_paths_the_deeper_it_is():
    rates = [m.drop_path.drop_prob for m in EfficientNet("b0", drop_path_rate=0.3).modules() if hasattr(m, "drop_path")]
    assert (rates[0], rates[-1], len(rates)) == (0.0, pytest.approx(0.3), 16)
    assert rates == sorted(rates)


def test_the_second_edge_block_of_the_first_stage_adds_nothing():
    first, second = EfficientNet("em").layers[1]
    assert (first.conv1.conv.out_channels, second.conv1.conv.out_channels) == (3 * 32, 4 * 24)
    assert not second.use_residual


@every
def test_frozen_layers_stay_still(build):
    backbone = build(frozen_stages=2, norm_eval=True).train()
    frozen = [p for p in backbone.parameters() if not p.requires_grad]
    assert 0 < len(frozen) < len(list(backbone.parameters()))
    assert not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    sum(m.sum() for m in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is None for p in frozen)


@pytest.mark.parametrize("name", ["v2", "v3", "shuffle", "efficient"])
def test_recomputing_changes_neither_gradients_nor_statistics(name):
    plain, frugal = SMALL[name]().train(), SMALL[name](with_cp=True).train()
    frugal.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for backbone in (plain, frugal):
        sum(m.square().mean() for m in backbone(images)).backward()
    for (parameter, p), q in zip(plain.named_parameters(), frugal.parameters()):
        assert (p.grad is None) == (q.grad is None), parameter
        assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-6), parameter
    assert all(torch.equal(v, frugal.state_dict()[k]) for k, v in plain.state_dict().items())


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (MobileNetV2, {"strides": (1, 2)}, "strides: .* needs 7 numbers"),
        (MobileNetV2, {"out_indices": (8,)}, "out_indices: .* must name maps 0 to 7"),
        (MobileNetV2, {"frozen_stages": 8}, "frozen_stages: 8 is not -1"),
        (MobileNetV3, {"arch": "smal"}, "did you mean 'small'"),
        (MobileNetV3, {"reduction_factor": 0}, "reduction_factor: 0 is not 1 or more"),
        (MobileNetV3, {"out_indices": (13,)}, "must name maps 0 to 12"),
        (ShuffleNetV2, {"widen_factor": 0.75}, "widen_factor: 0.75 is not one of 0.5, 1.0, 1.5, 2.0"),
        (ShuffleNetV2, {"out_indices": ()}, "must name maps 0 to 3"),
        (EfficientNet, {"arch": "b9"}, "arch: no EfficientNet is called 'b9'"),
        (EfficientNet, {"frozen_stages": -1}, "frozen_stages: -1 is not 0"),
        (VGG, {"depth": 12}, "depth: 12 is not one of 11, 13, 16, 19"),
        (VGG, {"depth": 11, "num_classes": 1000}, "num_classes: a backbone has no classifier"),
        (VGG, {"depth": 11, "num_stages": 6}, "num_stages: 6 is not 1 to 5"),
        (VGG, {"depth": 11, "dilations": (1, 1)}, "dilations: .* needs 5 numbers"),
    ],
)
def test_wrong_arguments_are_named(cls, arguments, message):
    with pytest.raises(ConfigError, match=message):
        cls(**arguments)


def test_mobilevits_have_the_published_size():
    """Millions of parameters of the classifiers, tables 4 and 2 of the papers."""
    published = {"xx_small": (320, 1.3), "x_small": (384, 2.3), "small": (640, 5.6)}
    for arch, (width, millions) in published.items():
        channels = ARCHS[arch]["channels"][-1]
        found = parameters(MobileViT, arch) + (channels + 2) * width + classifier(width)
        assert round(found / 1e6, 1) == millions, arch
    for factor, millions in {0.5: 1.4, 0.75: 2.9, 1.0: 4.9, 1.25: 7.5, 1.5: 10.6, 1.75: 14.3, 2.0: 18.4}.items():
        found = parameters(MobileViTV2, factor) + classifier(round(512 * factor))
        assert round(found / 1e6, 1) == millions, factor


def test_patches_are_folded_back():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    tokens = unfold(x, 2)
    assert tokens.shape == (2, 4, 6, 3)
    assert tokens[0, :, 0, 0].tolist() == [0, 1, 6, 7]
    assert torch.equal(fold(tokens, (4, 6), 2), x)


def test_all_blocks_of_a_stage_are_dilated_as_by_the_authors():
    model = MobileNetV2(0.1, (1, 2, 2, 2, 1, 1, 1), (1, 1, 1, 1, 1, 2, 2), dilate_all_blocks=True)
    dilated = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d) and part.dilation == (2, 2)]
    assert dilated == ["layer6.1.conv.1.conv", "layer6.2.conv.1.conv", "layer7.0.conv.1.conv"]
