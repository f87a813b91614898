"""Four images in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import UsageError
from segkernel.labels import IGNORE
from segkernel.sample import Sample, Size
from segplug_datasets import geometry
from segplug_datasets.ranges import NonNegativeRange
from segplug_datasets.transforms.checks import probability
from segplug_datasets.transforms.layers import Layer, composite, shallow_copy
from segplug_datasets.transforms.windowed_resize import WindowedResize


class RandomMosaic:
    """Put four images around a random point of a canvas twice as high and twice as wide as one of them.

    Each is scaled, keeping its proportions, to fit within ``img_scale``, and placed with its inner corner at the point,
    clipped to the canvas. Uses three additional samples, which must have the same fields.

    Args:
        prob: Probability of a mosaic; the image keeps its own size otherwise.
        img_scale: (height, width) of one image.
        center_ratio_range: Range of the point as a multiple of ``img_scale``, drawn for each direction.
        pad_val: Fill value of pixels that none of the four images covers.
        seg_pad_val: Fill value of label maps there.

    Raises:
        UsageError: When an argument is out of range.
        DataError: When the samples differ in channels, type or fields.
    """

    needs: ClassVar[int] = 3
    conformance: ClassVar = {"prob": 1.0, "img_scale": (64, 80)}

    def __init__(
        self,
        prob: Probability,
        img_scale: tuple[PositiveInt, PositiveInt] = (640, 640),
        center_ratio_range: NonNegativeRange = (0.5, 1.5),
        pad_val: float | tuple[float, ...] = 0,
        seg_pad_val: int = IGNORE,
    ) -> None:
        if min(img_scale) < 1:
            raise UsageError(f"img_scale must be (height, width) in pixels, not {img_scale}")
        if not 0 <= min(center_ratio_range) <= max(center_ratio_range) <= 2:
            raise UsageError(f"center_ratio_range must be within 0 and 2, not {center_ratio_range}")
        self.prob, self.img_scale, self.center_ratio_range = probability(prob), img_scale, center_ratio_range
        self.pad_val, self.seg_pad_val = pad_val, seg_pad_val

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        return self._mosaic([sample, *map(shallow_copy, more[:3])], rng) if rng.random() < self.prob else sample

    def _mosaic(self, samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
        height, width = self.img_scale
        canvas = (2 * height, 2 * width)
        x, y = (rng.uniform(*self.center_ratio_range) * edge for edge in (width, height))
        x, y = min(max(int(x), 1), canvas[1] - 1), min(max(int(y), 1), canvas[0] - 1)  # room for each of the four
        laid = composite(self._tiles(samples, x, y, canvas), canvas, self.pad_val, self.seg_pad_val)
        laid.moved = type(self).__name__
        return laid

    def _tiles(self, samples: Sequence[Sample], x: int, y: int, canvas: Size) -> list[Layer]:
        """Return the four: top left, top right, bottom left, bottom right."""
        layers = []
        for number, sample in enumerate(samples):
            factor = min(self.img_scale[0] / sample.size[0], self.img_scale[1] / sample.size[1])
            height, width = (max(1, int(edge * factor)) for edge in sample.size)
            sample.apply(WindowedResize((height, width)))
            right, below = number % 2 == 1, number >= 2
            tall = min(height, canvas[0] - y if below else y)
            wide = min(width, canvas[1] - x if right else x)
            # The corner that touches the point is kept.
            cut = geometry.Crop(0 if below else height - tall, 0 if right else width - wide, tall, wide)
            layers.append(Layer(sample.apply(cut), y if below else y - tall, x if right else x - wide))
        return layers


class Mosaic(RandomMosaic):
    """Put four images around a random point of a canvas, and cut a window out, as YOLO does (Bochkovskiy et al., 2020).

    As `RandomMosaic`, but the result has the size ``img_scale``: the middle of the canvas, which always holds the
    point. So the images of a batch stay as large as one of them. With ``prob`` below 1 a crop has to follow.

    Args:
        img_scale: (height, width) of one image, and of the result.
        center_ratio_range: Range of the point as a multiple of ``img_scale``, drawn for each direction.
        pad_val: Fill value of pixels that none of the four images covers; labels there become 255.
        prob: Probability of a mosaic; the image keeps its own size otherwise.

    Raises:
        UsageError: When an argument is out of range.
        DataError: When the samples differ in channels, type or fields.
    """

    conformance: ClassVar = {"img_scale": (64, 80)}

    def __init__(
        self,
        img_scale: tuple[PositiveInt, PositiveInt] = (640, 640),
        center_ratio_range: NonNegativeRange = (0.5, 1.5),
        pad_val: float | tuple[float, ...] = 114,
        prob: Probability = 1.0,
    ) -> None:
        super().__init__(prob, img_scale, center_ratio_range, pad_val)

    def _mosaic(self, samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
        height, width = self.img_scale
        return super()._mosaic(samples, rng).apply(geometry.Crop(height // 2, width // 2, height, width))
