from __future__ import annotations

import pytest
import torch
from torch import nn

from segkernel.errors import ConfigError
from segplug_backbones import FastSCNN


def test_keys():
    shapes = {key: tuple(value.shape) for key, value in FastSCNN().state_dict().items()}
    assert shapes["learning_to_downsample.dsconv1.depthwise_conv.conv.weight"] == (32, 1, 3, 3)
    assert shapes["learning_to_downsample.dsconv2.pointwise_conv.bn.weight"] == (64,)
    assert shapes["global_feature_extractor.bottleneck2.0.conv.1.conv.weight"] == (384, 1, 3, 3)
    assert shapes["global_feature_extractor.ppm.3.1.conv.weight"] == (32, 128, 1, 1)
    assert shapes["feature_fusion.conv_higher_res.conv.weight"] == (128, 64, 1, 1)


def test_maps_are_fine_coarse_and_fused():
    backbone = FastSCNN().eval()
    assert (backbone.channels, backbone.strides) == ((64, 128, 128), (8, 32, 8))


def test_other_widths_and_strides():
    backbone = FastSCNN(
        downsample_dw_channels=(8, 12),
        global_in_channels=16,
        global_block_channels=(16, 24, 32),
        global_block_strides=(2, 1, 1),
        global_out_channels=32,
        higher_in_channels=16,
        lower_in_channels=32,
        fusion_out_channels=32,
    ).eval()
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 8, 8), (32, 4, 4), (32, 8, 8)]
    assert backbone.strides == (8, 16, 8)


def test_depthwise_convolutions_of_the_shallow_part_have_no_activation_unless_asked():
    assert FastSCNN().learning_to_downsample.dsconv1.depthwise_conv.activate is None
    asked = FastSCNN(dw_act_cfg={"type": "ReLU"}).learning_to_downsample
    assert isinstance(asked.dsconv1.depthwise_conv.activate, nn.ReLU)


def test_the_activation_can_be_changed():
    backbone = FastSCNN(act_cfg={"type": "SiLU"})
    assert isinstance(backbone.feature_fusion.dwconv.activate, nn.SiLU)
    assert isinstance(backbone.global_feature_extractor.out.activate, nn.SiLU)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"higher_in_channels": 32}, "higher_in_channels: 32, but global_in_channels is 64"),
        ({"lower_in_channels": 64}, "lower_in_channels: 64, but global_out_channels is 128"),
        ({"downsample_dw_channels": (32,)}, "must have 2 numbers"),
        ({"global_block_strides": (2, 2)}, "must have 3 numbers"),
        ({"fusion_out_channels": 100}, "lower_in_channels: 128 is not divisible by fusion_out_channels, 100"),
        ({"out_indices": (3,)}, "out_indices"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FastSCNN(**arguments)
