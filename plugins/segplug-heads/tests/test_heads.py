"""Decode heads: state-dict keys, output sizes, export, refused arguments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segkernel.errors import ConfigError
from segkernel.nn import DecodeHead
from segkernel.testing.toys import ToyBackbone
from segplug_heads import (
    ASPPHead,
    DepthwiseSeparableASPPHead,
    DepthwiseSeparableFCNHead,
    FCNHead,
    PSPHead,
    SegformerHead,
)

BN = {"type": "BN"}
COMMON = {"channels": 8, "num_classes": 5, "norm_cfg": BN}
HEADS = {
    "fcn": lambda **more: FCNHead(in_channels=16, **COMMON, **more),
    "psp": lambda **more: PSPHead(in_channels=16, **COMMON, **more),
    "aspp": lambda **more: ASPPHead(in_channels=16, dilations=(1, 2, 3), **COMMON, **more),
    "sep-aspp": lambda **more: DepthwiseSeparableASPPHead(
        c1_in_channels=8, c1_channels=4, in_channels=16, **COMMON, **more
    ),
    "sep-fcn": lambda **more: DepthwiseSeparableFCNHead(in_channels=16, **COMMON, **more),
    "segformer": lambda **more: SegformerHead(in_channels=[8, 8, 16, 16], in_index=[0, 1, 2, 3], **COMMON, **more),
}


class Net(nn.Module):
    """A head on a backbone, to export."""

    def __init__(self, head: DecodeHead) -> None:
        super().__init__()
        self.backbone, self.head = ToyBackbone(), head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


TWINS = ("aspp", "sep-fcn")


# The quick set exports each operator once: aligned corners with the head that resizes most, and one of two twins.
@pytest.mark.parametrize(
    ("name", "align_corners"),
    [
        pytest.param(name, aligned, marks=pytest.mark.slow if (aligned and name != "psp") or name in TWINS else ())
        for name in HEADS
        for aligned in (False, True)
    ],
)
def test_exported_head_is_right_at_every_size(name: str, align_corners: bool) -> None:
    net = Net(HEADS[name](align_corners=align_corners)).eval()
    batch, height, width = (torch.export.Dim(n, min=2, max=512) for n in ("batch", "height", "width"))
    sides = ({0: batch, 2: 32 * height, 3: 32 * width},)
    with torch.no_grad():
        program = torch.export.export(net, (torch.randn(2, 3, 128, 160),), dynamic_shapes=sides)
        for size in ((2, 128, 160), (3, 96, 224), (2, 256, 64)):
            images = torch.randn(size[0], 3, *size[1:])
            assert torch.allclose(program.module()(images), net(images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("fcn", {"convs.0.conv.weight", "convs.1.bn.bias", "conv_cat.conv.weight"}),
        ("psp", {"psp_modules.0.1.conv.weight", "psp_modules.3.1.bn.weight", "bottleneck.conv.weight"}),
        ("aspp", {"image_pool.1.conv.weight", "aspp_modules.2.bn.weight", "bottleneck.bn.running_mean"}),
        (
            "sep-aspp",
            {"aspp_modules.0.conv.weight", "aspp_modules.1.depthwise_conv.bn.weight", "c1_bottleneck.conv.weight"}
            | {"sep_bottleneck.1.pointwise_conv.conv.weight"},
        ),
        ("sep-fcn", {"convs.0.depthwise_conv.conv.weight", "conv_cat.pointwise_conv.bn.weight"}),
        ("segformer", {"convs.3.conv.weight", "fusion_conv.bn.weight"}),
    ],
)
def test_keys_are_those_of_checkpoints(name: str, keys: set[str]) -> None:
    state = HEADS[name]().state_dict()
    assert keys | {"conv_seg.weight", "conv_seg.bias"} <= state.keys()


def test_head_without_convolutions_is_a_classifier() -> None:
    head = FCNHead(num_convs=0, concat_input=False, in_channels=8, channels=8, num_classes=3)
    assert list(head.state_dict()) == ["conv_seg.weight", "conv_seg.bias"]


def test_head_without_convolutions_keeps_the_channels() -> None:
    with pytest.raises(ConfigError, match="channels"):
        FCNHead(num_convs=0, in_channels=8, channels=4, num_classes=3)


def test_fcn_dilates_but_for_the_fusion() -> None:
    head = FCNHead(dilation=6, in_channels=8, channels=4, num_classes=3)
    assert [conv.conv.dilation for conv in head.convs] == [(6, 6), (6, 6)]
    assert head.conv_cat.conv.dilation == (1, 1)


def test_depthwise_part_has_an_activation_of_its_own() -> None:
    head = DepthwiseSeparableFCNHead(dw_act_cfg={"type": "GELU"}, in_channels=8, channels=4, num_classes=3)
    assert isinstance(head.convs[0].depthwise_conv.activate, nn.GELU)
    assert isinstance(head.convs[0].pointwise_conv.activate, nn.ReLU)


def test_separable_aspp_without_a_fine_map() -> None:
    head = DepthwiseSeparableASPPHead(c1_in_channels=0, c1_channels=0, in_channels=16, channels=8, num_classes=3)
    features = [torch.randn(1, 8, 16, 16), torch.randn(1, 16, 4, 4)]
    assert head.c1_bottleneck is None
    assert head(features).shape == (1, 3, 4, 4)


@torch.no_grad()
@pytest.mark.parametrize(
    "arguments",
    [
        {"norm_cfg": {"type": "BN"}},
        {"linear_projection": True, "align_corners": True},
        {"interpolate_mode": "nearest", "norm_cfg": {"type": "BN"}, "act_cfg": None},
    ],
)
def test_segformer_head_predicts_what_it_learns_with_each_map_at_its_own_size(arguments: dict) -> None:
    head = SegformerHead(in_channels=[8, 16], in_index=[0, 1], channels=4, num_classes=3, **arguments).eval()
    features = [torch.randn(2, 8, 12, 10), torch.randn(2, 16, 3, 5)]
    fused = head.forward_feature(features)
    head.training = True  # of the head alone: batch norms and dropout stay as they are
    torch.testing.assert_close(fused, head.forward_feature(features))


def test_segformer_head_chooses_several_maps_itself() -> None:
    with pytest.raises(TypeError, match="input_transform"):
        SegformerHead(in_channels=[8, 8], in_index=[0, 1], channels=4, num_classes=3, input_transform=None)  # type: ignore[misc]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_segformer_head_uses_the_given_interpolation(mode: str) -> None:
    head = SegformerHead(mode, in_channels=[8, 16], in_index=[0, 1], channels=4, num_classes=3)  # type: ignore[arg-type]
    assert head([torch.randn(1, 8, 6, 7), torch.randn(1, 16, 3, 4)]).shape == (1, 3, 6, 7)
