from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import nn

import segplug_backbones
from segkernel.errors import ConfigError, UnknownComponentError
from segkernel.nn import DeformConv2d, ModulatedDeformConv2d
from segplug_backbones import ResNeSt, ResNet, ResNetV1c, ResNetV1d, ResNeXt


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


@torch.no_grad()
def test_maps_that_are_not_returned_are_freed():
    backbone, alive = small(out_indices=(1, 3)).eval(), {}
    for number in (1, 2, 3):
        note = lambda module, args, result, number=number: alive.update({number: weakref.ref(result)})  # noqa: E731
        getattr(backbone, f"layer{number}").register_forward_hook(note)
    found = []
    backbone.layer4[1].register_forward_pre_hook(lambda *_: found.extend(n for n in alive if alive[n]() is not None))
    assert len(backbone(torch.rand(1, 3, 64, 64))) == 2
    assert found == [2, 3]  # the third is the input of the last stage


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
        ({"depth": 20}, "depth: 20 is not one of 18, 34, 50, 101, 152"),
        ({"num_stages": 5}, "1 to 4"),
        ({"strides": (1, 2)}, r"strides: \[1, 2\] needs 4 numbers"),
        ({"dilations": (1,)}, r"dilations: \[1\] needs 4 numbers"),
        ({"out_indices": (0, 4)}, "must name maps 0 to 3"),
        ({"out_indices": ()}, "must name maps 0 to 3"),
        ({"frozen_stages": 5}, "5 is not -1"),
        ({"depth": 50, "multi_grid": (1, 2)}, "needs 3 numbers"),
        ({"style": "tensorflow"}, "pytorch or caffe"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ResNet(**{"depth": 18, **arguments})


def test_the_stem_of_a_form_is_not_an_argument():
    with pytest.raises(TypeError, match="deep_stem"):
        ResNetV1c(18, deep_stem=False)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_a_function_for_each_depth(depth):
    backbone = getattr(segplug_backbones, f"resnet{depth}")(base_channels=4, stem_channels=4, deep_stem=True)
    with torch.device("meta"):
        expected = ResNetV1c(depth, base_channels=4, stem_channels=4)
    assert backbone.state_dict().keys() == expected.state_dict().keys()


@pytest.mark.parametrize(("groups", "width", "depth", "millions"), [(32, 4, 50, 22.98), (32, 8, 101, 86.74)])
def test_resnext_has_the_published_number_of_parameters(groups, width, depth, millions):
    with torch.device("meta"):
        backbone = ResNeXt(depth, groups=groups, base_width=width)
    assert backbone.layer1[0].conv2.weight.shape == (groups * width, width, 3, 3)
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert backbone.channels == (256, 512, 1024, 2048)


@pytest.mark.parametrize(("depth", "stem", "millions"), [(50, 64, 25.43), (101, 128, 46.23), (200, 128, 68.15)])
def test_resnest_has_the_published_number_of_parameters(depth, stem, millions):
    with torch.device("meta"):
        backbone = ResNeSt(depth, stem_channels=stem)
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_resnest_strides_by_pooling_or_by_its_convolution():
    pooling, striding = (
        small(ResNeSt, 50, avg_down_stride=by_pooling, radix=radix).eval()
        for by_pooling, radix in ((True, 2), (False, 1))
    )
    assert (pooling.layer2[0].conv2.conv.stride, pooling.layer2[0].avd_layer.stride) == ((1, 1), 2)
    assert striding.layer2[0].conv2.conv.stride == (2, 2)
    assert striding.layer2[0].avd_layer is None
    images = torch.rand(1, 3, 65, 97)
    assert [m.shape for m in pooling(images)] == [m.shape for m in striding(images)]


def test_grouped_resnest():
    backbone = small(ResNeSt, 50, groups=2, base_width=64)
    conv = backbone.layer1[0].conv2
    assert (conv.conv.groups, conv.fc1.groups, conv.conv.out_channels) == (4, 2, 2 * backbone.layer1[0].width)
    assert len(backbone.eval()(torch.rand(1, 3, 64, 64))) == 4


@pytest.mark.parametrize(("kind", "cls"), [("DCN", DeformConv2d), ("DCNv2", ModulatedDeformConv2d)])
@pytest.mark.parametrize("make", [ResNet, ResNeXt, ResNeSt])
def test_deformable_stages(make, kind, cls):
    more = {"groups": 2, "base_width": 16} if make is ResNeXt else {}
    backbone = small(
        make, 50, dcn={"type": kind, "deform_groups": 1}, stage_with_dcn=(False, False, True, True), **more
    )
    found = {name.split(".")[0] for name, m in backbone.named_modules() if isinstance(m, cls)}
    assert found == {"layer3", "layer4"}
    suffix = "conv2.conv" if make is ResNeSt else "conv2"
    assert {f"layer3.5.{suffix}.weight", f"layer3.5.{suffix}.conv_offset.bias"} <= backbone.state_dict().keys()
    sum(m.square().mean() for m in backbone.train()(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_deformable_convolutions_may_fall_back_where_they_stride():
    dcn = {"type": "DCN", "fallback_on_stride": True}
    backbone = small(depth=50, dcn=dcn, stage_with_dcn=(False, True, True, True), strides=(1, 2, 2, 1))
    assert isinstance(backbone.layer3[0].conv2, nn.Conv2d)
    assert isinstance(backbone.layer3[1].conv2, DeformConv2d)
    assert isinstance(backbone.layer4[0].conv2, DeformConv2d)
    assert dcn["fallback_on_stride"]


def test_plugins_stand_where_they_are_asked_to():
    plugins = [
        {"cfg": {"type": "ContextBlock", "ratio": 0.25}, "stages": (0, 1, 1, 1), "position": "after_conv3"},
        {"cfg": {"type": "NonLocal2d", "postfix": "_a"}, "stages": (0, 1, 0, 0), "position": "after_conv2"},
        {"cfg": {"type": "GeneralizedAttention", "num_heads": 4}, "position": "after_conv1"},
        {
            "cfg": {"type": "ConvModule", "out_channels": 8, "kernel_size": 1},
            "stages": (1, 0, 0, 0),
            "position": "after_conv2",
        },
    ]
    backbone = small(depth=50, plugins=plugins)
    names = {
        stage: {name for name, _ in getattr(backbone, stage)[1].named_children()} for stage in ("layer1", "layer2")
    }
    assert {"conv_block", "gen_attention_block"} <= names["layer1"]
    assert "context_block" not in names["layer1"]
    assert {"context_block", "nonlocal_block_a", "gen_attention_block"} <= names["layer2"]
    order = []
    block = backbone.eval().layer2[1]
    for name, module in block.named_children():
        module.register_forward_hook(lambda *_, name=name: order.append(name))
    backbone(torch.rand(1, 3, 64, 64))
    assert order == [
        "conv1", "bn1", "relu", "gen_attention_block", "conv2", "bn2", "relu", "nonlocal_block_a",
        "conv3", "bn3", "context_block", "relu",
    ]  # fmt: skip
    assert backbone.layer2[1].context_block.conv_mask.in_channels == 64
    assert len(backbone.eval()(torch.rand(1, 3, 65, 97))) == 4


def test_plugins_and_offsets_keep_their_own_first_values():
    plugins = [{"cfg": {"type": "ContextBlock", "ratio": 0.25}, "position": "after_conv3"}]
    backbone = small(depth=50, plugins=plugins, dcn={"type": "DCNv2"}, stage_with_dcn=[True] * 4)
    assert backbone.layer2[0].context_block.channel_add_conv[3].weight.abs().sum() == 0
    assert backbone.layer2[0].conv2.conv_offset.weight.abs().sum() == 0


def test_instance_norm_in_the_stem_and_the_first_stages():
    instance = {"type": "IN", "affine": True}
    backbone = small(depth=50, stem_norm_cfg=instance, stage_norm_cfgs=(instance, {"type": "IN"}, None, None))
    assert isinstance(backbone.in1, nn.InstanceNorm2d)
    assert isinstance(backbone.layer1[0].downsample[1], nn.InstanceNorm2d)
    assert backbone.layer1[2].in3.weight.abs().sum() == 0
    assert backbone.layer2[0].in1.weight is None
    assert isinstance(backbone.layer3[0].bn1, nn.BatchNorm2d)
    assert isinstance(small(ResNetV1c, stem_norm_cfg=instance).stem[1], nn.InstanceNorm2d)
    # A change of contrast does not get through.
    backbone = small(stem_norm_cfg=instance).eval()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(
        backbone.in1(backbone.conv1(3 * images)), backbone.in1(backbone.conv1(images)), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 18, "dcn": {"type": "DCN"}}, "dcn: only bottlenecks have it"),
        ({"depth": 18, "plugins": [{"cfg": {}, "position": "after_conv1"}]}, "plugins: only bottlenecks"),
        ({"dcn": {"type": "DCN"}, "conv_cfg": {"type": "Conv2d"}}, "dcn: it would replace"),
        ({"dcn": {"type": "DCN"}, "stage_with_dcn": (True,)}, "stage_with_dcn: 1 entries for 4 stages"),
        ({"stage_norm_cfgs": [{"type": "IN"}]}, "stage_norm_cfgs: 1 entries for 4 stages"),
        ({"plugins": [{"cfg": {}, "position": "after_conv4"}]}, r"plugins\[0\].position: 'after_conv4' is not one of"),
        ({"plugins": [{"cfg": {}, "position": "after_conv1", "stages": [True]}]}, r"plugins\[0\].stages: 1 entries"),
        ({"plugins": [{"cfg": {}, "position": "after_conv1"}]}, "has no type"),
        (
            {"plugins": [{"cfg": {"type": "NonLocal2d"}, "position": "after_conv1"}] * 2},
            "there are two called nonlocal_block",
        ),
        (
            {"plugins": [{"cfg": {"type": "GeneralizedAttention", "attention_type": "2"}, "position": "after_conv1"}]},
            "attention_type: '2' is not four digits",
        ),
    ],
)
def test_wrong_extras_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ResNet(**{"depth": 50, **arguments})


def test_an_unknown_plugin_is_named():
    with pytest.raises(UnknownComponentError, match="ContextBlock"):
        ResNet(50, plugins=[{"cfg": {"type": "ContextBlok"}, "position": "after_conv1"}])
