from __future__ import annotations

import pytest
import torch
from segplug_segformer.model import Attention, MixVisionTransformer, SegformerHead

from segkernel.sample import Targets


def test_maps_are_as_declared_for_an_odd_size():
    backbone = MixVisionTransformer(widths=(8, 16, 16, 16), heads=(1, 2, 2, 2)).eval()
    maps = backbone(torch.rand(1, 3, 65, 97))
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert [tuple(m.shape[2:]) for m in maps] == [(17, 25), (9, 13), (5, 7), (3, 4)]


def test_attention_reaches_the_whole_map():
    attention = Attention(8, heads=2, reduction=2)
    images = torch.rand(1, 8, 8, 8, requires_grad=True)
    attention(images)[0, :, 0, 0].sum().backward()
    assert (images.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_attention_keeps_the_shape(reduction):
    assert Attention(8, heads=2, reduction=reduction)(torch.rand(2, 8, 8, 12)).shape == (2, 8, 8, 12)


def test_backbone_and_head_learn_one_image_by_heart():
    torch.manual_seed(0)
    backbone = MixVisionTransformer(widths=(8, 16), depths=(1, 1), heads=(1, 2), reductions=(4, 2))
    head = SegformerHead(
        in_channels=(8, 16), in_index=(0, 1), channels=16, num_classes=2, norm_cfg={"type": "BN"}, dropout_ratio=0.0
    )
    images = torch.rand(1, 3, 32, 32)
    targets = Targets({"seg": (torch.arange(32) // 16).expand(1, 32, 32)})
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(30):
        loss = head.loss(backbone(images), targets)["loss_ce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_export_with_dynamic_sizes():
    backbone = MixVisionTransformer(widths=(8, 16, 16, 16), heads=(1, 2, 2, 2)).eval()
    sides = {2: torch.export.Dim("h", min=64), 3: torch.export.Dim("w", min=64)}
    program = torch.export.export(backbone, (torch.rand(1, 3, 64, 96),), dynamic_shapes=(sides,))
    images = torch.rand(1, 3, 97, 129)
    torch.testing.assert_close(program.module()(images), backbone(images), rtol=1e-4, atol=1e-5)
