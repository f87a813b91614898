from __future__ import annotations

import torch

from segkernel.sample import Targets
from segplug_my_model.head import MyModelHead


def test_logits_have_one_channel_per_class() -> None:
    head = MyModelHead(in_channels=8, channels=16, num_classes=5)
    assert head([torch.rand(2, 8, 12, 16)]).shape == (2, 5, 12, 16)


def test_it_learns_a_batch_by_heart() -> None:
    torch.manual_seed(0)
    head = MyModelHead(in_channels=8, channels=16, num_classes=2, norm_cfg={"type": "BN"}, dropout_ratio=0.0)
    features, targets = [torch.rand(2, 8, 8, 8)], Targets({"seg": torch.randint(0, 2, (2, 8, 8))})
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = head.loss(features, targets)["loss_ce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
