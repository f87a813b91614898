"""What every backbone keeps: declared channels and strides, odd sizes, gradients, meta, compile, export."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segkernel.interfaces.model import Backbone
from segkernel.nn import ConvModule
from segplug_backbones import (
    EVA02,
    PCPVT,
    SVT,
    VGG,
    DINOv2,
    DINOv3,
    EfficientNet,
    FastSCNN,
    Hiera,
    MixVisionTransformer,
    MobileNetV2,
    MobileNetV3,
    ResNeSt,
    ResNet,
    ResNetV1c,
    ResNetV1d,
    ResNeXt,
    SAM2Hiera,
    ShuffleNetV2,
    SwinTransformer,
    SwinTransformerV2,
    ViTSAM,
)
from segplug_backbones.hiera import HieraTrunk
from segplug_backbones.sam2_hiera import SAM2HieraArch
from segplug_backbones.vit_sam import ViTSAMArch

SMALL_SAM: ViTSAMArch = {
    "embed_dims": 16,
    "num_layers": 3,
    "num_heads": 2,
    "feedforward_channels": 32,
    "global_attn_indexes": (2,),
}
SMALL_SAM2: SAM2HieraArch = {
    "embed_dims": 8,
    "num_heads": 1,
    "depths": (1, 2, 2, 1),
    "window_sizes": (4, 2, 4, 3),
    "global_attn_indexes": (4,),
    "position_size": 3,
}
PLAIN: Any = {"embed_dims": 16, "num_layers": 3, "num_heads": 2, "feedforward_channels": 24}
BUILDERS: dict[str, Callable[..., Backbone]] = {
    "resnet18": lambda **more: ResNet(18, base_channels=8, **more),
    "resnet18-caffe": lambda **more: ResNet(18, style="caffe", base_channels=8, **more),
    "resnet50-d8": lambda **more: ResNetV1c(
        50, base_channels=8, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True, **more
    ),
    "resnet50-multi-grid": lambda **more: ResNet(
        50, base_channels=8, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), multi_grid=(1, 2, 4), **more
    ),
    "resnet34d": lambda **more: ResNetV1d(34, base_channels=8, **more),
    "mit": lambda **more: MixVisionTransformer(
        embed_dims=8, num_layers=(1, 2, 1, 1), num_heads=(1, 2, 5, 8), drop_path_rate=0.1, **more
    ),
    "swin": lambda **more: SwinTransformer(
        embed_dims=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4, use_abs_pos_embed=True, **more
    ),
    "swin-v2": lambda **more: SwinTransformerV2(
        {"embed_dims": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8)}, img_size=64, window_size=4, **more
    ),
    "hiera": lambda **more: Hiera({"embed_dims": 8, "num_heads": 1, "depths": (1, 2, 2, 1)}, img_size=64, **more),
    "sam2-hiera": lambda **more: SAM2Hiera(SMALL_SAM2, **more),
    "vit-sam": lambda **more: ViTSAM(SMALL_SAM, img_size=64, window_size=3, **{"out_indices": (0, 1, 2), **more}),
    "pcpvt": lambda **more: PCPVT(embed_dims=(8, 8, 16, 16), depths=(1, 2, 1, 1), norm_after_stage=True, **more),
    "svt": lambda **more: SVT(
        embed_dims=(8, 8, 16), depths=(2, 1, 1), windiow_sizes=(4, 4, 4), **{"out_indices": (0, 1, 2), **more}
    ),
    "fast-scnn": lambda **more: FastSCNN(**more),
    "resnet50-dcn": lambda **more: ResNet(
        50, base_channels=8, dcn={"type": "DCNv2"}, stage_with_dcn=(False, False, True, True), **more
    ),
    "resnet50-plugins": lambda **more: ResNet(
        50,
        base_channels=8,
        plugins=[
            {"cfg": {"type": "ContextBlock", "ratio": 0.25}, "position": "after_conv3"},
            {"cfg": {"type": "NonLocal2d"}, "position": "after_conv2", "stages": (0, 0, 1, 0)},
        ],
        **more,
    ),
    "resnext50": lambda **more: ResNeXt(50, groups=4, base_channels=8, **more),
    "resnest50": lambda **more: ResNeSt(50, base_channels=8, **more),
    "mobilenet-v2": lambda **more: MobileNetV2(0.1, **{"out_indices": range(7), **more}),
    "mobilenet-v3": lambda **more: MobileNetV3(**{"out_indices": range(13), **more}),
    "shufflenet-v2": lambda **more: ShuffleNetV2(0.5, **{"out_indices": range(4), **more}),
    "efficientnet-b0": lambda **more: EfficientNet(**{"out_indices": range(7), **more}),
    "dinov2": lambda **more: DINOv2(PLAIN, img_size=56, num_register_tokens=2, **{"out_indices": (0, 1, 2), **more}),
    "dinov2-offset": lambda **more: DINOv2(
        {**PLAIN, "swiglu": True}, img_size=56, interpolate_offset=0.1, **{"out_indices": (0, 1, 2), **more}
    ),
    "dinov3": lambda **more: DINOv3(PLAIN, **{"out_indices": (0, 1, 2), **more}),
    "eva02": lambda **more: EVA02(PLAIN, img_size=56, **{"out_indices": (0, 1, 2), **more}),
    "vgg11": lambda **more: VGG(11, norm_cfg={"type": "BN"}, ceil_mode=True, **{"out_indices": range(5), **more}),
}
every_backbone = pytest.mark.parametrize("build", BUILDERS.values(), ids=list(BUILDERS))
TRICKS: dict[str, Callable[[], nn.Module]] = {
    "attention to fewer keys": lambda: MixVisionTransformer(
        embed_dims=8, num_layers=(1,), num_heads=(1,), num_stages=1, strides=(4,), patch_sizes=(7,), sr_ratios=(8,),
        out_indices=(0,),
    ),
    "padded and shifted windows": lambda: SwinTransformer(
        embed_dims=8, depths=(2, 1), num_heads=(1, 2), window_size=4, strides=(4, 2), out_indices=(0, 1)
    ),
    "windows and sub-sampled attention in turn": lambda: SVT(
        embed_dims=(8,), depths=(2,), num_heads=(1,), strides=(4,), mlp_ratios=(4,), sr_ratios=(8,), patch_sizes=(4,),
        windiow_sizes=(4,), out_indices=(0,),
    ),
    "attention to all pixels": lambda: ResNet(
        50, base_channels=8, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1),
        plugins=[{"cfg": {"type": "NonLocal2d"}, "position": "after_conv2", "stages": (0, 1)}],
    ),
    "padding computed from the size": lambda: ConvModule(
        3, 4, 3, stride=2, padding=1, conv_cfg={"type": "Conv2dAdaptivePadding"}
    ),
    "positions interpolated with antialiasing": BUILDERS["dinov2"],
    "positions interpolated with an offset": BUILDERS["dinov2-offset"],
    "rotary positions": BUILDERS["dinov3"],
    "pooling that rounds up": BUILDERS["vgg11"],
}  # fmt: skip
"""One small network, or a layer, for every operator whose result depends on the size of its input in a way of its own:
these are exported in the quick set, all of `BUILDERS` in the slow one. The kernel's tests export deformable
convolution, those of heads pooling to a given number of cells."""
EXPORTED = [pytest.param(build, id=name) for name, build in TRICKS.items()]
EXPORTED += [pytest.param(build, id=name, marks=pytest.mark.slow) for name, build in BUILDERS.items()]


@every_backbone
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (224, 224)], ids=str)
def test_maps_are_as_declared(build, size):
    backbone = build().eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, *size))
    expected = [(1, c, *(-(-side // s) for side in size)) for c, s in zip(backbone.channels, backbone.strides)]
    assert isinstance(maps, tuple)
    assert [tuple(m.shape) for m in maps] == expected


@every_backbone
@pytest.mark.parametrize("in_channels", [1, 4])
def test_images_may_have_other_channels(build, in_channels):
    backbone = build(in_channels=in_channels).eval()
    assert len(backbone(torch.rand(1, in_channels, 64, 64))) == len(backbone.channels)


@every_backbone
def test_out_indices_select_and_order_the_maps(build):
    torch.manual_seed(0)
    everything = build().eval()
    torch.manual_seed(0)
    some = build(out_indices=(2, 0)).eval()
    images = torch.rand(1, 3, 64, 64)
    third, first = some(images)
    assert some.channels == (everything.channels[2], everything.channels[0])
    assert some.strides == (everything.strides[2], everything.strides[0])
    assert torch.equal(third, everything(images)[2])
    assert torch.equal(first, everything(images)[0])


@every_backbone
def test_every_parameter_gets_a_gradient(build):
    backbone = build().train()
    sum(m.square().mean() for m in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@every_backbone
def test_builds_on_meta_with_the_same_state(build):
    with torch.device("meta"):
        hollow = build()
    assert all(p.is_meta for p in hollow.parameters())
    assert {k: v.shape for k, v in hollow.state_dict().items()} == {k: v.shape for k, v in build().state_dict().items()}


@every_backbone
def test_channels_last_is_kept_and_changes_no_number(build):
    backbone = build().eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        plain = backbone(images)
        backbone.to(memory_format=torch.channels_last)
        last = backbone(images.contiguous(memory_format=torch.channels_last))
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in last)
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", EXPORTED)
def test_exports_with_dynamic_sizes(build):
    backbone = build().eval()
    windows = isinstance(backbone, SwinTransformer | SwinTransformerV2 | SVT | HieraTrunk | ViTSAM)
    least = 160 if windows else 64  # to an exporter, a map of one window is a case of its own
    sides = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=least), 3: torch.export.Dim("w", min=least)}
    program = torch.export.export(backbone, (torch.rand(2, 3, least, least + 32),), dynamic_shapes=(sides,))
    images = torch.rand(3, 3, least + 33, least + 65)
    torch.testing.assert_close(program.module()(images), backbone(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@every_backbone
def test_traces_without_a_graph_break(build):
    backbone = build().eval()
    torch._dynamo.reset()  # every class counts towards one limit of recompilations
    compiled = torch.compile(backbone, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in ((64, 64), (65, 97)):
            images = torch.rand(1, 3, *size)
            torch.testing.assert_close(compiled(images), backbone(images), rtol=1e-4, atol=1e-5)


@every_backbone
def test_initial_features_are_finite_and_alive(build):
    torch.manual_seed(0)
    for m in build().train()(torch.randn(2, 3, 64, 64)):
        assert torch.isfinite(m).all()
        assert m.std() > 1e-3


def test_importing_the_package_imports_no_torch():
    code = "import sys, segplug_backbones; assert 'torch' not in sys.modules; print(*dir(segplug_backbones))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"FastSCNN", "MixVisionTransformer", "ResNet", "ResNetV1c", "ResNetV1d", "mit_b0"} <= set(
        done.stdout.split()
    )


def test_a_name_that_is_not_there_is_an_attribute_error():
    import segplug_backbones

    with pytest.raises(AttributeError, match="ResNet50"):
        _ = segplug_backbones.ResNet50


def test_the_code_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    exec(blocks[0], {})
    assert f"# {capsys.readouterr().out.strip()}\n" in blocks[0]
