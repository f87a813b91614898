"""Components that configs of the commands' tests name; the tests put this folder on the path."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from segkernel.sample import LabelMap, Sample, Targets
from segkernel.testing.toys import ToySegmentor


class Squares:
    """Eight images of four classes, each half noise.

    Args:
        side: Of the images, in pixels.
        shift: Added to all values.
    """

    classes = ("a", "b", "c", "d")
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))

    def __init__(self, side: int = 16, shift: int = 0) -> None:
        self.side, self.shift = side, shift

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        labels = np.full((self.side, self.side), index % 4, np.uint8)
        image = np.random.default_rng(index).integers(0, 64, (self.side, self.side, 3)).astype(np.uint8)
        return Sample({"seg": LabelMap(labels)}, {"name": str(index)}, image + np.uint8(40 * (index % 4) + self.shift))


class Mined(ToySegmentor):
    """Its loss depends on values: masks, numbers read on the way, a sort."""

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        logits, labels = self(images), targets["seg"][:, ::4, ::4]
        wrong = logits.amax(1)[labels == 1]
        if np.isnan(logits.detach().cpu().numpy()).any():
            raise ValueError("a value that is none")
        if wrong.numel() and wrong.max().item() > 0:
            return {"loss": wrong.topk(min(10, len(wrong)))[0].sum()}
        return {"loss": logits.square().mean() + len(labels.unique())}
