"""Strongly augmented views of a batch for semi-supervised training: colours, grey, blur, and CutMix between images.

Colours and blur as in Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation, Yang et al., 2023
(https://arxiv.org/abs/2208.09910); CutMix: Yun et al., 2019 (https://arxiv.org/abs/1905.04899).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

JITTER = 0.5
"""Brightness, contrast and saturation are multiplied by 1 - this to 1 + this."""
JITTER_PROBABILITY, GREY_PROBABILITY, BLUR_PROBABILITY, CUTMIX_PROBABILITY = 0.8, 0.2, 0.5, 0.5
SIGMA = (0.1, 2.0)
"""Of the blur, in pixels."""
AREA, ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)
"""Share of the image that CutMix replaces, and its height to width."""


def strong_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images with other colours and blurred, each by its own random numbers.

    Args:
        images: (N, C, H, W), from 0 to 255; with other than three channels, saturation and grey are left out.
        generator: On the CPU.
    """
    return torch.stack([_strong(image, generator) for image in images])


def _strong(image: Tensor, generator: torch.Generator) -> Tensor:
    chance, colours = torch.rand(3, generator=generator).tolist(), len(image) == 3
    factors = (1 - JITTER + 2 * JITTER * torch.rand(3, generator=generator)).tolist()
    sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * float(torch.rand(1, generator=generator))
    if chance[0] < JITTER_PROBABILITY:
        image = image * factors[0]
        image = torch.lerp(image.mean(), image, factors[1])
        if colours:
            image = torch.lerp(_grey(image), image, factors[2])
        image = image.clamp(0, 255)
    if chance[1] < GREY_PROBABILITY and colours:
        image = _grey(image).expand_as(image)
    return _blurred(image, sigma) if chance[2] < BLUR_PROBABILITY else image


def _grey(image: Tensor) -> Tensor:
    return image.mean(0, keepdim=True)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    radius = max(min(int(3 * sigma + 0.5), min(image.shape[1:]) - 1), 1)
    distance = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (distance / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = F.pad(image.unsqueeze(1), (radius, radius, radius, radius), mode="reflect")
    x = F.conv2d(x, kernel.view(1, 1, 1, -1))
    return F.conv2d(x, kernel.view(1, 1, -1, 1)).squeeze(1)


def cutmix_mask(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return where each of ``count`` images takes the pixels of the next one, boolean (count, H, W)."""
    height, width = size
    mask = torch.zeros(count, height, width, dtype=torch.bool)
    for each in mask:
        chance, share, shape, down, right = torch.rand(5, generator=generator).tolist()
        if chance >= CUTMIX_PROBABILITY:
            continue
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * share)
        ratio = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** shape
        rows, columns = min(int((area * ratio) ** 0.5), height), min(int((area / ratio) ** 0.5), width)
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        each[top : top + rows, left : left + columns] = True
    return mask
