from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from segkernel.errors import UsageError
from segplug_backbones import ResNet, ResNetV1c, ResNetV1d


def small(cls=ResNet, depth=18, **more):
    return cls(depth, base_channels=8, stem_channels=8, **more)


@pytest.mark.parametrize(("depth", "millions"), [(18, 11.18), (34, 21.28), (50, 23.51), (101, 42.50), (152, 58.14)])
def test_depths_have_the_published_number_of_parameters(depth, millions):
    with torch.device("meta"):
        count = sum(p.numel() for p in ResNet(depth).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_keys_of_the_plain_stem():
    keys = small().state_dict().keys()
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv2.weight", "layer4.0.downsample.1.bias"} <= keys
    assert not any(key.startswith("stem.") for key in keys)


def test_keys_of_the_deep_stem():
    keys = small(ResNetV1c, 50).state_dict().keys()
    assert {"stem.0.weight", "stem.1.weight", "stem.3.weight", "stem.7.running_var", "layer1.0.conv3.weight"} <= keys
    assert "conv1.weight" not in keys


def test_shortcuts_of_the_d_form_keep_the_place_of_the_pooling_even_without_stride():
    state = small(ResNetV1d, 50).state_dict()
    assert "layer1.0.downsample.1.weight" in state
    assert "layer1.0.downsample.0.weight" not in state


def test_norm_layers_are_named_by_their_kind():
    state = small(norm_cfg={"type": "GN", "num_groups": 4}).state_dict()
    assert {"gn1.weight", "layer1.0.gn2.bias"} <= state.keys()


def dilations(backbone, stage):
    return [block.conv2.dilation[0] for block in getattr(backbone, f"layer{stage}")]


def test_dilation_reaches_every_block():
    assert dilations(small(depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)), 4) == [4, 4, 4]


def test_contract_dilation_halves_the_first_block():
    backbone = small(depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), contract_dilation=True)
    assert dilations(backbone, 3) == [1, 2, 2, 2, 2, 2]
    assert dilations(backbone, 4) == [2, 4, 4]


def test_multi_grid_replaces_the_dilations_of_the_last_stage_only():
    backbone = small(depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), multi_grid=(1, 2, 4))
    assert dilations(backbone, 3) == [2] * 6
    assert dilations(backbone, 4) == [1, 2, 4]


def test_style_says_which_convolution_of_a_bottleneck_strides():
    pytorch, caffe = small(depth=50).layer2[0], small(depth=50, style="caffe").layer2[0]
    assert (pytorch.conv1.stride, pytorch.conv2.stride) == ((1, 1), (2, 2))
    assert (caffe.conv1.stride, caffe.conv2.stride) == ((2, 2), (1, 1))


def test_fewer_stages():
    backbone = small(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,))
    assert not hasattr(backbone, "layer3")
    assert (backbone.channels, backbone.strides) == ((16,), (8,))


def test_the_d_form_averages_in_its_shortcuts():
    pool = small(ResNetV1d).layer2[0].downsample[0]
    column = torch.arange(5.0).view(1, 1, 5, 1)
    assert pool(column).flatten().tolist() == [0.5, 2.5, 4.0]


def test_the_d_form_averages_the_same_when_it_is_compiled():
    pool = small(ResNetV1d).layer2[0].downsample[0]
    x = torch.rand(2, 3, 7, 10)
    torch.testing.assert_close(torch.compile(pool, backend="eager", fullgraph=True)(x), pool(x))


@pytest.mark.parametrize("cls", [ResNet, ResNetV1c])
def test_frozen_stages_stay_still_in_training(cls):
    backbone = small(cls, frozen_stages=1).train()
    before = copy.deepcopy(backbone.state_dict())
    sum(m.sum() for m in backbone(torch.rand(2, 3, 64, 64))).backward()
    trained = {name.split(".")[0] for name, p in backbone.named_parameters() if p.grad is not None}
    moved = {k.split(".")[0] for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert trained == moved == {"layer2", "layer3", "layer4"}
    assert not backbone.layer1.training
    assert backbone.layer2.training


def test_nothing_is_frozen_by_default():
    assert all(p.requires_grad for p in small().parameters())


def test_freezing_the_stem_only():
    backbone = small(frozen_stages=0)
    assert {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad} == {"conv1", "bn1"}


def test_norm_eval_keeps_statistics_but_trains_weights():
    backbone = small(norm_eval=True).train()
    sum(m.sum() for m in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert backbone.bn1.num_batches_tracked == 0
    assert backbone.bn1.weight.grad is not None
    assert backbone.layer1[0].training


def test_zero_init_residual_starts_blocks_as_the_identity():
    block = small(depth=50).layer1[1].eval()
    x = torch.rand(1, 32, 8, 8)
    assert torch.equal(block(x), x)
    assert small(depth=50, zero_init_residual=False).layer1[1].bn3.weight.min() == 1


@pytest.mark.parametrize("depth", [18, 50])
def test_recomputing_changes_neither_gradients_nor_statistics(depth):
    plain = small(depth=depth, zero_init_residual=False).train()
    frugal = small(depth=depth, zero_init_residual=False, with_cp=True).train()
    frugal.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for backbone in (plain, frugal):
        sum(m.square().mean() for m in backbone(images)).backward()
    for (name, p), q in zip(plain.named_parameters(), frugal.parameters()):
        assert torch.equal(p.grad, q.grad), name
    assert all(torch.equal(v, frugal.state_dict()[k]) for k, v in plain.state_dict().items())


def test_recomputing_calls_the_blocks_again():
    calls = []
    backbone = small(with_cp=True).train()
    backbone.layer4[1].conv1.register_forward_hook(lambda *_: calls.append(1))
    backbone(torch.rand(2, 3, 64, 64))[-1].sum().backward()
    assert len(calls) == 2


def test_norm_without_gradient():
    backbone = small(norm_cfg={"type": "BN", "requires_grad": False})
    assert all(not p.requires_grad for m in backbone.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 20}, "depth 20 is not one of 18, 34, 50, 101, 152"),
        ({"num_stages": 5}, "1 to 4"),
        ({"strides": (1, 2)}, r"strides \[1, 2\] needs 4 numbers"),
        ({"dilations": (1,)}, r"dilations \[1\] needs 4 numbers"),
        ({"out_indices": (0, 4)}, "must name stages 0 to 3"),
        ({"out_indices": ()}, "must name stages 0 to 3"),
        ({"frozen_stages": 5}, "must be -1"),
        ({"depth": 50, "multi_grid": (1, 2)}, "needs 3 numbers"),
        ({"style": "tensorflow"}, "pytorch or caffe"),
        ({"dcn": {"type": "DCN"}}, "later release"),
        ({"plugins": [{"cfg": {"type": "ContextBlock"}}]}, "later release"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        ResNet(**{"depth": 18, **arguments})


def test_the_stem_of_a_form_is_not_an_argument():
    with pytest.raises(TypeError, match="deep_stem"):
        ResNetV1c(18, deep_stem=False)
