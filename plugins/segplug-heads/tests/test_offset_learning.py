"""Offset learning: the equations of the paper, pixel by pixel."""

from __future__ import annotations

import torch
from torch import nn

from segplug_heads.heads.offset_learning import OffsetLearning, SegformerOffsetLearningHead


@torch.no_grad()
def test_logits_are_those_of_the_equations() -> None:
    torch.manual_seed(0)
    layer, features = OffsetLearning(4, 3).double(), torch.randn(1, 4, 2, 3, dtype=torch.float64)
    layer.cls_repr.normal_()
    nn.init.normal_(layer.cls_offset_proj.weight)
    nn.init.normal_(layer.feat_offset_proj.weight)
    pixels = [features[0, :, row, column] for row in range(2) for column in range(3)]
    classes = list(layer.cls_repr[0])
    scores = torch.stack([torch.stack([pixel @ each for each in classes]) for pixel in pixels])
    moved_classes = [
        each + layer.cls_offset_proj(sum(w * p for w, p in zip(scores[:, k].softmax(0), pixels)))  # type: ignore[arg-type]
        for k, each in enumerate(classes)
    ]
    moved_pixels = [
        pixel + layer.feat_offset_proj(sum(w * c for w, c in zip(scores[i].softmax(0), classes)))  # type: ignore[arg-type]
        for i, pixel in enumerate(pixels)
    ]
    logits = torch.stack([torch.stack([pixel @ each for each in moved_classes]) for pixel in moved_pixels])
    expected = nn.functional.layer_norm(logits, (3,)).T.view(1, 3, 2, 3)
    torch.testing.assert_close(layer(features), expected)


def test_it_takes_the_place_of_the_last_convolution() -> None:
    head = SegformerOffsetLearningHead(in_channels=[4, 8], in_index=[0, 1], channels=8, num_classes=5)
    names = {name.split(".")[0] for name in head.state_dict()}
    assert "offset_learning" in names
    assert "conv_seg" not in names
    maps = [torch.rand(2, 4, 8, 8), torch.rand(2, 8, 4, 4)]
    assert head(maps).shape == (2, 5, 8, 8)
