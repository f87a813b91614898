"""Train a plain torch module, whose result is a dict as torchvision's, on torch's data set; write its weights.

plain.py OUT                    # alone, or by torchrun
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from segkernel import Runner
from segplug_datasets import TorchDataset
from segplug_training import DDPEngine


class Halves(Dataset[tuple[Tensor, Tensor]]):
    """Eight images whose bright half is class 1."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(16, 16, dtype=torch.int64)
        mask[:, index % 16 :] = 1
        return (mask * 200).to(torch.uint8).repeat(3, 1, 1), mask


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, 2, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.classifier(images)}


if __name__ == "__main__":
    out = Path(sys.argv[1])
    engine = DDPEngine(device="cpu")
    torch.manual_seed(0)
    module = Net()
    runner = Runner(
        module,
        train=DataLoader(TorchDataset(Halves(), ["left", "right"]), batch_size=4 // engine.world_size, shuffle=True),
        optimizer=torch.optim.SGD(module.parameters(), 0.1),
        iterations=5,
        batch_size=4,
        engine=engine,
        work_dir=out.with_suffix(""),
    )
    runner.run()
    if runner.is_main:
        torch.save(runner.engine.model_state(), out)
