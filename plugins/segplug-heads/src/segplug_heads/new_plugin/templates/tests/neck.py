from __future__ import annotations

import torch

from segplug_my_model.neck import MyModelNeck


def test_maps_keep_their_size_and_get_equal_channels() -> None:
    maps = MyModelNeck((8, 16), 4)([torch.rand(2, 8, 12, 16), torch.rand(2, 16, 6, 8)])
    assert [tuple(x.shape) for x in maps] == [(2, 4, 12, 16), (2, 4, 6, 8)]


def test_the_fine_map_depends_on_the_coarse_one() -> None:
    fine, coarse = torch.rand(1, 8, 4, 4), torch.rand(1, 16, 2, 2, requires_grad=True)
    MyModelNeck((8, 16), 4)([fine, coarse])[0].sum().backward()
    assert coarse.grad is not None
    assert coarse.grad.abs().sum() > 0
