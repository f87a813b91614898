"""FPN, the necks of plain transformers, UPerNet's and semantic FPN's heads, PointRend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkernel.errors import ConfigError
from segkernel.sample import Targets
from segkernel.testing.toys import ToyBackbone
from segplug_heads import (
    FPN,
    CascadeEncoderDecoder,
    EncoderDecoder,
    Feature2Pyramid,
    FPNHead,
    MultiLevelNeck,
    PointHead,
    SimpleFeaturePyramid,
    UPerHead,
)
from segplug_heads.heads.point_head import Subdivision, most_uncertain_pixels
from segplug_heads.heads.point_sampling import PointSampling, uncertainty

CHANNELS = (8, 8, 16, 16)
COMMON: dict[str, Any] = {"channels": 8, "num_classes": 5, "norm_cfg": {"type": "BN"}}
ALL: dict[str, Any] = {"in_channels": [8] * 4, "in_index": [0, 1, 2, 3], **COMMON}


def maps(*sizes: tuple[int, int], channels: tuple[int, ...] = CHANNELS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, *size, generator=generator) for c, size in zip(channels, sizes, strict=False)]


PYRAMID = maps((16, 24), (8, 12), (4, 6), (2, 3))


def point_head(**more: Any) -> PointHead:
    return PointHead(in_channels=[8], in_index=[0], channels=8, num_classes=5, subdivision_num_points=64, **more)


def fpn(**more: Any) -> FPN:
    return FPN(**{"in_channels": CHANNELS, "out_channels": 4, "num_outs": 4, **more})


def point_rend(**more: Any) -> CascadeEncoderDecoder:
    coarse = FPNHead(feature_strides=[4, 8, 16, 32], **{**ALL, "in_channels": [8] * 4})
    return CascadeEncoderDecoder(2, ToyBackbone(), [coarse, point_head()], fpn(out_channels=8), **more)


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ({}, [(16, 24), (8, 12), (4, 6), (2, 3)]),
        ({"num_outs": 6}, [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]),
        ({"num_outs": 2, "start_level": 1, "end_level": 3}, [(8, 12), (4, 6)]),
        ({"start_level": 1, "add_extra_convs": True}, [(8, 12), (4, 6), (2, 3), (1, 2)]),
    ],
)
def test_fpn_has_the_requested_number_of_levels(arguments: dict[str, Any], sizes: list[tuple[int, int]]) -> None:
    assert [tuple(m.shape) for m in fpn(**arguments)(PYRAMID)] == [(2, 4, *size) for size in sizes]


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        ({"add_extra_convs": "on_input"}, "input"),
        ({"add_extra_convs": True, "extra_convs_on_inputs": True}, "input"),
        ({"add_extra_convs": "on_lateral"}, "lateral"),
        ({"add_extra_convs": "on_output"}, "output"),
        ({"add_extra_convs": True}, "output"),
    ],
)
def test_coarser_levels_of_fpn_start_from_their_source(arguments: dict[str, Any], source: str) -> None:
    neck = fpn(num_outs=6, relu_before_extra_convs=True, **arguments).eval()
    outs = neck(PYRAMID)
    sources = {"input": PYRAMID[3], "lateral": neck.lateral_convs[3](PYRAMID[3]), "output": outs[3]}
    assert torch.equal(outs[4], neck.fpn_convs[4](sources[source]))
    assert torch.equal(outs[5], neck.fpn_convs[5](outs[4].relu()))


def test_fpn_enlarges_by_a_factor_or_to_the_size_of_the_finer_map() -> None:
    even = maps((16, 24), (8, 12))
    by_size, by_factor = (
        FPN(CHANNELS[:2], 4, 2, upsample_cfg={"mode": "bilinear", "align_corners": False, **more})
        for more in ({}, {"scale_factor": 2.0})
    )
    by_factor.load_state_dict(by_size.state_dict())
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(by_size(even), by_factor(even), strict=True))


def test_fpn_norms_the_outputs_alone_on_request() -> None:
    keys = fpn(norm_cfg={"type": "BN"}, no_norm_on_lateral=True).state_dict().keys()
    assert "fpn_convs.0.bn.weight" in keys
    assert "lateral_convs.0.conv.bias" in keys
    assert "lateral_convs.0.bn.weight" not in keys


@pytest.mark.parametrize("factors", [(4, 2, 1, 0.5), (2, 1, 0.5, 0.25), (1, 4)])
def test_plain_maps_become_a_pyramid(factors: tuple[float, ...]) -> None:
    plain = maps(*[(8, 12)] * len(factors), channels=(8,) * 4)
    for neck in (
        Feature2Pyramid(8, factors, {"type": "BN"}),
        MultiLevelNeck([8] * len(factors), 8, factors),
    ):
        assert [m.shape[2:] for m in neck(plain)] == [(8 * f, 12 * f) for f in factors]


def test_the_last_map_becomes_a_simple_pyramid_under_the_names_of_its_authors() -> None:
    neck = SimpleFeaturePyramid(8, 6)
    outs = neck([torch.rand(2, 8, 9, 5), torch.rand(2, 8, 5, 7)])
    assert [tuple(m.shape) for m in outs] == [(2, 6, 20, 28), (2, 6, 10, 14), (2, 6, 5, 7), (2, 6, 3, 4)]
    shapes = {name: tuple(value.shape) for name, value in neck.state_dict().items()}
    assert shapes["simfp_2.3.weight"] == (4, 2, 2, 2)
    assert shapes["simfp_3.1.weight"] == (6, 4, 1, 1)
    assert shapes["simfp_4.1.norm.weight"] == (6,)
    assert shapes["simfp_5.2.weight"] == (6, 6, 3, 3)
    assert sum(value.numel() for value in neck.parameters()) == 1830  # convolutions have no bias, deconvolutions have


def test_one_map_becomes_a_pyramid() -> None:
    outs = MultiLevelNeck([8], 4, (2, 1))(PYRAMID[:1])
    assert [tuple(m.shape) for m in outs] == [(2, 4, 32, 48), (2, 4, 16, 24)]


class Net(nn.Module):
    """A head on a pyramid on a backbone, to export."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = ToyBackbone(), fpn(out_channels=8), head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.neck(self.backbone(images)))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: Net(UPerHead(**ALL)), id="upernet", marks=pytest.mark.slow),
        pytest.param(
            lambda: Net(FPNHead(feature_strides=[4, 8, 16, 32], **ALL)), id="semantic fpn", marks=pytest.mark.slow
        ),
        pytest.param(lambda: point_rend(), id="pointrend"),  # the only one that chooses points by their uncertainty
    ],
)
def test_exported_model_is_right_at_every_size(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net = build().eval()
    height, width = (torch.export.Dim(n, min=2, max=512) for n in ("height", "width"))
    sides = ({0: torch.export.Dim("batch"), 2: 32 * height, 3: 32 * width},)
    with torch.no_grad():
        program = torch.export.export(net, (torch.randn(2, 3, 128, 160),), dynamic_shapes=sides)
        for size in ((3, 96, 224), (2, 256, 64)):
            images = torch.randn(size[0], 3, *size[1:])
            assert torch.allclose(program.module()(images), net(images), atol=1e-5)


def test_refining_scores_every_pixel_when_there_are_points_enough() -> None:
    head = point_head(subdivision_steps=1).eval()
    previous = torch.randn(2, 5, 4, 5)
    head.configure({}, {"subdivision_num_points": 1000})
    rows, columns = torch.meshgrid((torch.arange(8) + 0.5) / 8, (torch.arange(10) + 0.5) / 10, indexing="ij")
    points = torch.stack([columns, rows], 2).view(1, 80, 2).expand(2, -1, -1)
    expected = head.predict_points([PYRAMID[0]], previous, points).view(2, 5, 8, 10)
    torch.testing.assert_close(head([PYRAMID[0]], previous), expected)


def test_refining_leaves_clear_pixels_as_they_are() -> None:
    head = point_head(subdivision_steps=1).eval()
    head.configure({}, {"subdivision_num_points": 7})
    previous = torch.randn(2, 5, 4, 5)
    enlarged = nn.functional.interpolate(previous, scale_factor=2, mode="bilinear")
    changed = (head([PYRAMID[0]], previous) != enlarged).any(1).flatten(1)
    index, centres = most_uncertain_pixels(enlarged, 7)
    assert changed.sum(1).tolist() == [7, 7]
    assert changed.gather(1, index).all()
    assert centres.min() > 0
    assert centres.max() < 1


def test_close_scores_are_uncertain() -> None:
    scores = torch.tensor([[5.0, 0.0], [4.9, 9.0], [0.0, 1.0]]).unsqueeze(0)
    assert uncertainty(scores).argmax(1).item() == 0
    assert uncertainty(torch.tensor([[[3.0, -0.1]]])).argmax(1).item() == 1


def test_the_segmentor_says_how_many_points() -> None:
    model = point_rend(
        train_cfg={"num_points": 12, "oversample_ratio": 2, "importance_sample_ratio": 0.5},
        test_cfg={"mode": "whole", "subdivision_steps": 1, "subdivision_num_points": 9, "scale_factor": 2},
    )
    head = model.decode_head[1]
    assert head.training_points == PointSampling(12, 2, 0.5)
    assert head.subdivision == Subdivision(1, 9, 2)
    assert model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 5, 32, 32)


def test_points_without_weight_teach_nothing() -> None:
    model = point_rend()
    labels = torch.randint(0, 5, (2, 64, 64))
    targets = Targets({"seg": labels, "weight": torch.zeros(2, 64, 64)})
    losses = model.decode_head[1].loss(PYRAMID[:1], torch.randn(2, 5, 16, 24), targets)
    assert losses["pointloss_ce"] == 0
    assert set(losses) == {"pointloss_ce", "acc_point"}


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: fpn(num_outs=3), "num_outs"),
        (lambda: fpn(num_outs=3, end_level=2), "num_outs"),
        (lambda: fpn(start_level=4), "start_level"),
        (lambda: fpn(add_extra_convs="on_top"), "on_lateral"),
        (lambda: fpn()(PYRAMID[:2]), "2 feature maps"),
        (lambda: Feature2Pyramid(8, (3,)), "rescales"),
        (lambda: SimpleFeaturePyramid(6), "in_channels"),
        (lambda: SimpleFeaturePyramid(8, scale_factors=(3,)), "scale_factors"),
        (lambda: SimpleFeaturePyramid(8, scale_factors=(2, 2)), "scale_factors"),
        (lambda: MultiLevelNeck([8, 8], 8), "scales"),
        (lambda: FPNHead(feature_strides=[4, 8], **ALL), "feature_strides"),
        (lambda: FPNHead(feature_strides=[8, 4, 16, 32], **ALL), "smallest"),
        (lambda: UPerHead(**{**ALL, "in_index": [0, 1]}), "in_index"),
        (lambda: point_head(oversample_ratio=0.5), "oversample_ratio"),
        (lambda: point_head(importance_sample_ratio=1.5), "importance_sample_ratio"),
        (lambda: point_head().configure({"num_points": 0}, {}), "num_points"),
    ],
)
def test_wrong_arguments_are_named(build: Callable[[], Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        build()


def test_an_encoder_decoder_takes_a_pyramid() -> None:
    model = EncoderDecoder(ToyBackbone(), UPerHead(**ALL), fpn(out_channels=8)).train()
    losses = model.loss(torch.rand(2, 3, 65, 97), Targets({"seg": torch.randint(0, 5, (2, 65, 97))}))
    losses["decode.loss_ce"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
