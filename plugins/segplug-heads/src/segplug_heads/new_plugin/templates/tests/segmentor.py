from __future__ import annotations

import torch

from segkernel.sample import Targets
from segplug_my_model.segmentor import MyModelSegmentor


def test_logits_are_at_half_resolution() -> None:
    assert MyModelSegmentor(num_classes=5).eval()(torch.rand(1, 3, 32, 48)).shape == (1, 5, 16, 24)


def test_it_learns_a_batch_by_heart() -> None:
    torch.manual_seed(0)
    model = MyModelSegmentor(num_classes=2, channels=8)
    images, targets = torch.rand(2, 3, 16, 16), Targets({"seg": (torch.arange(16) // 8).expand(2, 16, 16)})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model.loss(images, targets)["loss_ce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
