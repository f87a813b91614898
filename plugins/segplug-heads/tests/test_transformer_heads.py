from __future__ import annotations

import pytest
import torch

from segkernel.errors import ConfigError
from segplug_heads import DPTHead, MLANeck, SegmenterMaskTransformerHead, SETRMLAHead, SETRUPHead

DPT = {
    "in_channels": [8] * 4, "in_index": [0, 1, 2, 3], "input_transform": "multiple_select", "channels": 8,
    "num_classes": 4, "embed_dims": 8, "post_process_channels": [4, 8, 8, 12],
}  # fmt: skip
SEGMENTER = {"in_channels": 8, "channels": 8, "num_classes": 4, "num_layers": 2, "num_heads": 2, "embed_dims": 12}


def maps(count, height=4, width=6):
    return [torch.rand(2, 8, height, width) for _ in range(count)]


def pairs(count, height=4, width=6):
    return [(x, torch.rand(2, 8)) for x in maps(count, height, width)]


@pytest.mark.parametrize(("convs", "scale"), [(1, 4), (4, 2)])
def test_setr_enlarges_after_every_convolution(convs, scale):
    head = SETRUPHead(in_channels=8, channels=8, num_classes=4, num_convs=convs, up_scale=scale)
    assert head(maps(1)).shape == (2, 4, 4 * scale**convs, 6 * scale**convs)


def test_setr_mla_joins_enlarged_maps():
    head = SETRMLAHead(in_channels=[8, 8], in_index=[0, 1], channels=8, mla_channels=4, num_classes=3, up_scale=2)
    assert head(maps(2)).shape == (2, 3, 8, 12)


def test_the_mla_neck_adds_from_the_last_layer_to_the_first():
    neck = MLANeck([8, 8, 8], 8).eval()
    torch.manual_seed(0)
    features = maps(3)
    changed = [features[0] + torch.rand_like(features[0]), *features[1:]]
    same = [torch.equal(a, b) for a, b in zip(neck(features), neck(changed))]
    assert same == [True, True, False]  # the first map reaches the last output only


def test_segmenter_s_scores_are_normalised_over_the_classes():
    head = SegmenterMaskTransformerHead(**SEGMENTER).eval()
    scores = head(maps(1))
    assert scores.shape == (2, 4, 4, 6)
    assert "conv_seg.weight" not in head.state_dict()
    torch.testing.assert_close(scores.mean(1), torch.zeros(2, 4, 6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("readout", ["ignore", "add", "project"])
def test_dpt_reads_out_the_class_token(readout):
    head = DPTHead(**DPT, readout_type=readout).eval()
    features = pairs(4)
    scores = head(features)
    assert scores.shape == (2, 4, 32, 48)
    other = head([(x, token + 1) for x, token in features])
    assert torch.equal(scores, other) == (readout == "ignore")


def test_dpt_of_odd_maps():
    assert DPTHead(**DPT).eval()(pairs(4, 5, 7)).shape == (2, 4, 48, 64)


def test_dpt_without_tokens_names_the_argument_to_set():
    with pytest.raises(ConfigError, match="output_cls_token"):
        DPTHead(**DPT, readout_type="project")(maps(4))


def test_dpt_doubles_channels_when_asked():
    head = DPTHead(**DPT, expand_channels=True)
    assert [conv.conv.in_channels for conv in head.convs] == [4, 16, 32, 96]
    assert head(maps(4)).shape == (2, 4, 32, 48)


@pytest.mark.parametrize(
    ("cls", "arguments", "path"),
    [
        (SETRUPHead, {"in_channels": 8, "channels": 8, "num_classes": 4, "kernel_size": 5}, "kernel_size"),
        (SETRMLAHead, {"in_channels": [8, 8], "in_index": [0, 1], "channels": 9, "mla_channels": 4, "num_classes": 4},
         "channels"),
        (DPTHead, {**DPT, "post_process_channels": [4, 8]}, "post_process_channels"),
        (DPTHead, {**DPT, "in_channels": 8, "in_index": 0, "input_transform": None}, "in_index"),
        (SegmenterMaskTransformerHead, {**SEGMENTER, "num_classes": 2, "out_channels": 1}, "out_channels"),
    ],
)  # fmt: skip
def test_bad_arguments(cls, arguments, path):
    with pytest.raises(ConfigError) as raised:
        cls(**arguments)
    assert raised.value.problems[0].path == path


def test_the_mla_neck_wants_as_many_maps_as_channels():
    with pytest.raises(ConfigError, match="2 feature maps for 3"):
        MLANeck([8, 8, 8], 8)(maps(2))
