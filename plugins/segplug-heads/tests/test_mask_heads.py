"""MaskFormer's and Mask2Former's heads: behaviour that the kit and the golden cases do not cover."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from segkernel import build
from segkernel.errors import ConfigError
from segkernel.sample import Targets
from segplug_heads import HungarianAssigner, Mask2FormerHead, MaskFormerHead
from segplug_heads.heads.mask_queries import objects_from_labels
from segplug_heads.heads.point_sampling import PointSampling
from segplug_heads.parts.matching import ClassificationCost, Objects, Queries
from segplug_heads.parts.query_transformer import SinePositionalEncoding

HEADS = [MaskFormerHead, Mask2FormerHead]
MAPS = ((8, 4), (16, 8), (24, 16))


def head_of(cls: type, **more: Any) -> Any:
    torch.manual_seed(0)
    return build("heads", {"type": cls.__name__, **copy.deepcopy(cls.conformance), **more})


def features(height: int = 64, width: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, -(-height // stride), -(-width // stride), generator=generator)
        for channels, stride in MAPS
    ]


@pytest.mark.parametrize("cls", HEADS)
def test_masks_are_resized_to_the_image_before_they_are_added_up(cls: type) -> None:
    head = head_of(cls).eval()
    scores = head.predict(features(65, 97), (65, 97))
    assert scores.shape == (2, 4, 65, 97)
    assert head.predict(features(65, 97)).shape == head(features(65, 97)).shape == (2, 4, 17, 25)
    assert scores.min() >= 0


@pytest.mark.parametrize("cls", HEADS)
def test_an_image_without_labels_trains_the_no_object_class(cls: type) -> None:
    head = head_of(cls)
    losses = head.loss(features(), Targets({"seg": torch.full((2, 64, 64), 255)}))
    assert losses["loss_cls"] > 0
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("cls", HEADS)
def test_queries_learn_two_halves(cls: type) -> None:
    head = head_of(cls, train_cfg=None)
    head.point_sampling = PointSampling(256)
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[:, :, 32:] = 3
    maps = features()
    for x in maps:
        x[..., x.shape[-1] // 2 :] += 2
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2)
    for _ in range(25):
        optimizer.zero_grad()
        sum(head.loss(maps, Targets({"seg": labels})).values()).backward()
        optimizer.step()
    right = (head.eval().predict(maps, (64, 64)).argmax(1) == labels).float().mean()
    assert right > 0.9


def test_more_objects_than_queries_leave_some_unmatched() -> None:
    objects = Objects(torch.arange(5), torch.zeros(5, 4, 4))
    query, index = HungarianAssigner(ClassificationCost()).assign(
        Queries(torch.eye(3, 6), torch.zeros(3, 4, 4)), objects
    )
    assert query.tolist() == index.tolist() == [0, 1, 2]


def test_objects_are_the_classes_of_a_label_map() -> None:
    objects = objects_from_labels(torch.tensor([[1, 1], [255, 4]]), 255)
    assert objects.labels.tolist() == [1, 4]
    assert objects.masks.tolist() == [[[1, 1], [0, 0]], [[0, 0], [0, 1]]]


def test_the_memory_may_pass_a_transformer() -> None:
    layer = {
        "self_attn_cfg": {"embed_dims": 16, "num_heads": 2, "dropout": 0.1},
        "ffn_cfg": {"embed_dims": 16, "feedforward_channels": 16},
    }
    decoder = {
        "type": "TransformerEncoderPixelDecoder",
        "norm_cfg": {"type": "GN", "num_groups": 4},
        "encoder": {"num_layers": 2, "layer_cfg": layer, "num_cp": 1},
        "positional_encoding": {"num_feats": 8, "normalize": True},
    }
    head = head_of(MaskFormerHead, pixel_decoder=decoder, enforce_decoder_input_project=True)
    keys = head.state_dict().keys()
    assert not any("last_feat_conv" in key or "decoder_input_proj" in key for key in keys)
    assert "pixel_decoder.encoder.layers.1.ffn.layers.0.0.weight" in keys
    sum(head.loss(features(), Targets({"seg": torch.zeros(2, 64, 64, dtype=torch.long)})).values()).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_two_maps_may_be_left_to_the_pyramid() -> None:
    spec = copy.deepcopy(Mask2FormerHead.conformance["pixel_decoder"])
    spec["encoder"]["layer_cfg"]["self_attn_cfg"]["num_levels"] = 1
    head = head_of(Mask2FormerHead, pixel_decoder={**spec, "num_outs": 3}, num_transformer_feat_level=3)
    assert [conv.conv.in_channels for conv in head.pixel_decoder.lateral_convs] == [16, 8]
    assert head.eval()(features()).shape == (2, 4, 16, 16)


def test_sines_tell_rows_from_columns() -> None:
    place = SinePositionalEncoding(4, normalize=True)(torch.zeros(1, 1, 3, 5)).view(3, 5, 8)
    assert (place[:, :1, :4] == place[:, :, :4]).all()
    assert (place[:1, :, 4:] == place[:, :, 4:]).all()
    assert len(place.flatten(0, 1).unique(dim=0)) == 15


@pytest.mark.parametrize(
    ("cls", "more", "message"),
    [
        (MaskFormerHead, {"loss_dice": {"type": "QueryDiceLoss", "use_sigmoid": False}}, "use_sigmoid"),
        (MaskFormerHead, {"positional_encoding": {"num_feats": 7}}, "in pairs"),
        (MaskFormerHead, {"transformer_decoder": {"return_intermediate": False}}, "return_intermediate"),
        (MaskFormerHead, {"train_cfg": {"assigner": {"type": "HungarianAssigner", "match_costs": []}}}, "match_costs"),
        (MaskFormerHead, {"train_cfg": {"points": 5}}, "unknown argument"),
        (Mask2FormerHead, {"num_transformer_feat_level": 3}, "num_outs"),
        (Mask2FormerHead, {"transformer_decoder": {}}, "embed_dims"),
    ],
)
def test_incompatible_arguments_are_refused(cls: type, more: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        head_of(cls, **more)


def test_a_weight_per_class_and_one_for_nothing() -> None:
    with pytest.raises(ConfigError, match="4 numbers for 4 classes and 'no object'"):
        head_of(MaskFormerHead, loss_cls={"type": "QueryCrossEntropyLoss", "class_weight": [1.0] * 4})
