"""U-Nets and their kin on any backbone: maps chosen by stride, sizes, learning, export."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from segkernel.building import build
from segkernel.errors import ConfigError
from segkernel.interfaces.model import Features, Neck
from segkernel.sample import Targets
from segkernel.testing.toys import ToyBackbone
from segplug_heads import DPTHead, ImageClassHead, LinknetHead, SegformerHead, UNetHead, UNetPlusPlusHead

BN = {"type": "BN"}
SMALL: dict[str, dict[str, Any]] = {
    "UNetHead": {"decoder_channels": [16, 16, 8, 8, 4], "attention_type": "scse"},
    "UNetPlusPlusHead": {"decoder_channels": [16, 16, 8, 8, 4]},
    "MAnetHead": {"decoder_channels": [16, 16, 8, 8, 4], "pab_channels": 4},
    "LinknetHead": {"channels": 4},
    "PANHead": {"channels": 8, "upsampling": 4},
    "PanopticFPNHead": {"pyramid_channels": 16, "segmentation_channels": 8, "upsampling": 4},
    "DeepLabV3Head": {"channels": 8, "atrous_rates": [1, 2, 3]},
    "DeepLabV3PlusHead": {"channels": 8, "low_level_channels": 4, "atrous_rates": [1, 2, 3]},
    "PSPNetHead": {"channels": 8},
    "UPerHead": {"channels": 8, "feature_norm": True},
    "SegformerHead": {"channels": 8, "linear_projection": True},
}


class StridedBackbone(ToyBackbone):
    """A toy whose maps have other strides, as it says."""

    def __init__(self, strides: tuple[int, ...] = (2, 4, 8, 16, 32)) -> None:
        super().__init__(channels=(8, 8, 16, 16, 24)[: len(strides)])
        self.strides = strides


class WithStem(ToyBackbone):
    """A toy that returns a map of stride 2 as well when it is asked."""

    pyramid: ClassVar = {depth: {"channels": (8,) * depth, "stem": True} for depth in (3, 4, 5)}

    def __init__(self, channels: tuple[int, ...] = (8, 8, 16, 16), stem: bool = False) -> None:
        super().__init__(channels=channels)
        if stem:
            self.stages[0] = torch.nn.Conv2d(3, channels[0], 3, stride=2, padding=1)
            self.strides = tuple(2 * 2**i for i in range(len(channels)))


def model(head: str, backbone: Any = None, changes: dict[str, Any] | None = None, **more: Any) -> Any:
    spec = {"type": head, "num_classes": 4, "norm_cfg": BN, **SMALL[head], **(changes or {})}
    torch.manual_seed(0)
    return build("segmentors", {
        "type": "PyramidEncoderDecoder", "backbone": backbone or ToyBackbone(), "decode_head": spec, **more
    })  # fmt: skip


@pytest.mark.parametrize("head", SMALL)
def test_odd_sizes_pass_forward_and_backward(head: str) -> None:
    net = model(head, auxiliary_head={"type": "ImageClassHead", "num_classes": 4})
    labels = torch.randint(0, 4, (2, 65, 97))
    losses = net.loss(torch.randn(2, 3, 65, 97), labels)
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert torch.isfinite(net.eval().predict(torch.randn(1, 3, 33, 41))["seg"]).all()


@pytest.mark.parametrize("head", SMALL)
def test_twenty_steps_lower_the_loss(head: str) -> None:
    net, generator = model(head), torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 64, 64, generator=generator)
    labels = (images.mean(1) > 0.5).long()
    optimizer, losses = torch.optim.AdamW(net.parameters(), 3e-3), []
    for _ in range(20):
        loss = net.loss(images, labels)["decode.loss_ce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.slow
@pytest.mark.parametrize("head", SMALL)
@torch.no_grad()
def test_exported_and_compiled_models_are_right(head: str) -> None:
    net = model(head).eval()
    factor = 4 if head == "PANHead" else 1  # whose pooled maps may not shrink to one row
    batch, height, width = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "height", "width"))
    sides = ({0: batch, 2: 32 * height, 3: 32 * width},)
    example = torch.randn(2, 3, 128 * factor, 160 * factor)
    program = torch.export.export(net, (example,), dynamic_shapes=sides).module()
    for images in (example, torch.randn(3, 3, 160 * factor, 224 * factor)):
        torch.testing.assert_close(program(images), net(images), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(example), net(example), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", SMALL)
def test_models_are_built_without_memory(head: str) -> None:
    with torch.device("meta"):
        assert {p.device.type for p in model(head, backbone=ToyBackbone()).parameters()} == {"meta"}


@torch.no_grad()
def test_a_backbone_returns_its_stem_where_it_can() -> None:
    net = model("UNetHead", {"type": WithStem}, {"decoder_channels": [8, 8, 8, 4]}, encoder_depth=4)
    assert net.backbone.strides == (2, 4, 8, 16)
    assert net.decode_head.feature_strides == (2, 4, 8, 16)
    assert net(torch.randn(1, 3, 64, 96)).shape == (1, 4, 64, 96)


def test_a_backbone_s_own_arguments_prevail() -> None:
    net = model("UNetHead", {"type": WithStem, "stem": False, "channels": [8, 8, 16]})
    assert net.backbone.strides == (4, 8, 16)


@pytest.mark.parametrize(
    ("head", "strides", "message"),
    [
        ("UNetHead", (4, 8, 8, 8), "halve in size"),
        ("LinknetHead", (2, 8, 16), "halve in size"),
        ("DeepLabV3PlusHead", (8, 16, 32), "needs a map of stride 4"),
        ("PanopticFPNHead", (4, 8, 16), "needs four maps"),
    ],
)
def test_missing_strides_are_named(head: str, strides: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        model(head, StridedBackbone(strides))
    assert str(list(strides)) in str(caught.value)


def test_dilated_stages_count_as_halvings() -> None:
    net = model("PANHead", StridedBackbone((2, 4, 8, 16, 16)))
    assert net.decode_head.in_index == [1, 2, 3, 4]


@torch.no_grad()
def test_maps_of_one_stride_become_a_pyramid() -> None:
    net = model("UNetHead", StridedBackbone((16, 16)), auxiliary_head={"type": "ImageClassHead", "num_classes": 4})
    assert net.decode_head.feature_strides == (4, 8, 16, 32)
    assert net.decode_head.in_channels == [256] * 4
    assert net(torch.randn(1, 3, 64, 96)).shape[:2] == (1, 4)
    narrow = model("UNetHead", StridedBackbone((14,)), neck={"type": "SimpleFeaturePyramid", "in_channels": 8,
                   "out_channels": 12, "stride": 14})  # fmt: skip
    assert narrow.decode_head.feature_strides == (4, 8, 16, 32)
    assert narrow.decode_head.in_channels == [12] * 4


class ToyNeck(Neck):
    """It passes maps on, and does not say of which strides."""

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        return tuple(features)


def test_a_neck_of_unknown_strides_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"neck.*ToyNeck has no attributes `channels` and `strides`"):
        model("UNetHead", neck=ToyNeck())


def test_missing_arguments_are_reported_at_the_head() -> None:
    spec = {"type": "PyramidEncoderDecoder", "backbone": ToyBackbone(), "decode_head": {"type": "UNetHead"}}
    with pytest.raises(ConfigError, match="decode_head") as caught:
        build("segmentors", spec)
    assert "num_classes" in str(caught.value)


@pytest.mark.parametrize(
    ("decoder_channels", "size"), [(None, (24, 32)), ((16, 8), (12, 16)), ((9, 9, 8, 8, 8), (96, 128))]
)
@pytest.mark.parametrize("kind", [UNetHead, UNetPlusPlusHead])
def test_every_block_doubles_the_resolution(kind: Any, decoder_channels: tuple[int, ...] | None, size: tuple) -> None:
    maps = [torch.rand(2, width, 12 // 2**i, 16 // 2**i) for i, width in enumerate((4, 6, 8))]
    head = kind(decoder_channels, in_channels=[4, 6, 8], in_index=[0, 1, 2], num_classes=5)
    assert head(maps).shape == (2, 5, *size)
    with pytest.raises(ConfigError, match="at least 2 blocks"):
        kind([8], in_channels=[4, 6, 8], in_index=[0, 1, 2], num_classes=5)


@pytest.mark.parametrize("coarse", [(4, 6), (5, 6)])
def test_linknet_takes_maps_rounded_down_and_up(coarse: tuple[int, int]) -> None:
    head = LinknetHead(in_channels=[4, 8], in_index=[0, 1], num_classes=5)
    assert head([torch.rand(2, 4, 9, 12), torch.rand(2, 8, *coarse)]).shape == (2, 5, 18, 24)


def test_default_widths_follow_the_strides() -> None:
    head = UNetHead(in_channels=[8, 8, 16, 16], in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32], num_classes=2)
    assert head.decoder_channels == (256, 128, 64, 32, 16)


def test_segformer_logits_have_stride_four() -> None:
    head = SegformerHead(
        channels=4, in_channels=[8, 8, 8], in_index=[0, 1, 2], feature_strides=[2, 4, 8], num_classes=3
    )
    maps = [torch.rand(2, 8, 16 // 2**i, 16 // 2**i) for i in range(3)]
    trained = head.forward_feature(maps)
    torch.testing.assert_close(head.eval().forward_feature(maps), trained)
    assert trained.shape == (2, 4, 8, 8)


def test_the_presence_of_classes_is_learnt_where_there_are_labels() -> None:
    head = ImageClassHead(in_channels=4, num_classes=3, in_index=0).eval()
    maps, labels = [torch.rand(3, 4, 8, 8)], torch.full((3, 8, 8), 255)
    labels[0, 0, 0], labels[1] = 2, 1
    logits = head(maps).flatten(1)[:2]
    present = torch.tensor([[0.0, 0, 1], [0, 1, 0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, present)
    torch.testing.assert_close(head.loss(maps, Targets({"seg": labels}))["loss_image"], expected)


@pytest.mark.parametrize(("stride", "factor"), [(8, 4), (16, 8), (32, 16)])
def test_dpt_reassembles_maps_of_other_strides(stride: Any, factor: int) -> None:
    head = DPTHead(
        embed_dims=8, post_process_channels=[4, 8, 8, 8], channels=8, in_channels=[8] * 4, in_index=[0, 1, 2, 3],
        input_transform="multiple_select", num_classes=2, feature_stride=stride, refine_coarsest=True,
    )  # fmt: skip
    maps: list[Tensor] = [torch.rand(1, 8, 8, 8) for _ in range(4)]
    assert head(maps).shape[2:] == (8 * factor, 8 * factor)
