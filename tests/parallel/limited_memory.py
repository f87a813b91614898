"""A segmentor that runs out of memory on one rank."""

from __future__ import annotations

import os

import torch
from double_precision import DoubleEncoderDecoder
from torch import Tensor

from segkernel.sample import Targets


class LimitedEncoderDecoder(DoubleEncoderDecoder):
    """On rank 1, two images fit in training."""

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        if os.environ.get("RANK") == "1" and len(images) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().loss(images, targets)
