from __future__ import annotations

import torch

from segplug_my_model.part import MyModelPixelSampler


def test_it_counts_the_given_share_of_the_pixels_and_no_ignored_one() -> None:
    torch.manual_seed(0)
    target = torch.zeros(1, 64, 64, dtype=torch.long)
    target[:, :32] = 255
    weight = MyModelPixelSampler(share=0.25).sample(torch.rand(1, 2, 64, 64), target, [], 255)
    assert weight.shape == target.shape
    assert weight[:, :32].sum() == 0
    assert 0.2 < weight[:, 32:].mean() < 0.3
