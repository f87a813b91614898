from __future__ import annotations

import torch

from segplug_my_model.backbone import MyModelBackbone


def test_maps_have_the_declared_channels_and_strides() -> None:
    backbone = MyModelBackbone(widths=(8, 16, 24)).eval()
    maps = backbone(torch.rand(1, 3, 64, 96))
    assert [x.shape[1] for x in maps] == list(backbone.channels) == [8, 16, 24]
    assert [(64 // x.shape[2], 96 // x.shape[3]) for x in maps] == [(stride, stride) for stride in backbone.strides]


def test_the_coarsest_map_depends_on_distant_pixels() -> None:
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    MyModelBackbone(widths=(8, 8, 8)).eval()(images)[-1][0, :, 0, 0].sum().backward()
    assert images.grad is not None
    assert images.grad[0, :, 24, 24].abs().sum() > 0
