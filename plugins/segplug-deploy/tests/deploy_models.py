"""A small segmentor with what exports have trouble with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkernel.interfaces.model import PixelClasses, Segmentor
from segkernel.nn import resize
from segkernel.nn.pool import adaptive_avg_pool

METADATA = {"classes": ["road", "sky"], "palette": [[1, 2, 3], [4, 5, 6]], "preprocess": {"mean": [1.0, 2.0, 3.0]}}


class Tiny(Segmentor):
    """A stem, a pyramid pooling of 3 x 3 bins, a dropout, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.5))
        self.head, self.depth = nn.Conv2d(12, 2, 1), nn.Conv2d(12, 1, 1)
        self.outputs = {
            "seg": PixelClasses(2, 2),
            "edge": PixelClasses(2, 1, activation="sigmoid", threshold=0.3),
        }
        self.test_cfg = {"mode": "whole", "subdivision_steps": 2}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        features = self.stem(images)
        pooled = resize(adaptive_avg_pool(features, 3), size=features.shape[2:])
        both = torch.cat([features, pooled], 1)
        return {"seg": self.head(both), "edge": self.depth(both)}

    def forward(self, images: Tensor) -> Tensor:
        return self.predict(images)["seg"]
