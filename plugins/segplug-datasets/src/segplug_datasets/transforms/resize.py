"""Transforms that resize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from segkernel.annotations import Positive, PositiveInt
from segkernel.errors import UsageError
from segkernel.sample import Sample, Size
from segplug_datasets.ranges import NonNegativeRange
from segplug_datasets.transforms.windowed_resize import WindowedResize

Scale = tuple[PositiveInt, PositiveInt]
"""Width and height in pixels."""


class Resize:
    """Scale to a size, or by a factor.

    Args:
        scale: (width, height), or one number for both. With ``keep_ratio`` the image is made as large as fits: the
            longer edge within the larger number, the shorter within the smaller, in either orientation of the image.
        scale_factor: Factor, or (of the width, of the height); instead of ``scale``.
        keep_ratio: Keep the aspect ratio.

    Raises:
        UsageError: Unless exactly one of ``scale`` and ``scale_factor`` is given.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = ({"scale": (77, 51)}, {"scale": (64, 64), "keep_ratio": True}, {"scale_factor": 1.5})

    def __init__(
        self,
        scale: PositiveInt | Scale | None = None,
        scale_factor: Positive | tuple[Positive, Positive] | None = None,
        keep_ratio: bool = False,
    ) -> None:
        if (scale is None) == (scale_factor is None):
            raise UsageError("Resize needs either 'scale' or 'scale_factor'")
        if scale_factor is not None and np.min(scale_factor) <= 0:
            raise UsageError(f"scale_factor must be above 0, not {scale_factor}")
        self.scale = None if scale is None else _pair(scale)
        self.scale_factor = scale_factor if not isinstance(scale_factor, int | float) else (scale_factor, scale_factor)
        self.keep_ratio = keep_ratio

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        return sample.apply(WindowedResize(self.target(sample.size)))

    def target(self, size: Size) -> Size:
        """Return the (height, width) that an image of ``size`` gets."""
        height, width = size
        if self.scale_factor is not None:
            scale = _rounded(width * self.scale_factor[0]), _rounded(height * self.scale_factor[1])
        else:
            assert self.scale is not None
            scale = self.scale
        if not self.keep_ratio:
            return scale[1], scale[0]
        factor = min(max(scale) / max(size), min(scale) / min(size))
        return _rounded(height * factor), _rounded(width * factor)


class ResizeShortestEdge:
    """Scale, keeping the aspect ratio, so that the shorter edge gets a given length.

    Args:
        scale: Pixels of the shorter edge; of (width, height) the smaller number counts.
        max_size: Limit of the longer edge in pixels.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"scale": 64, "max_size": 80}

    def __init__(self, scale: PositiveInt | Scale, max_size: PositiveInt | None = None) -> None:
        self.edge, self.max_size = min(_pair(scale)), max_size

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        return sample.apply(WindowedResize(self.target(sample.size)))

    def target(self, size: Size) -> Size:
        """Return the (height, width) that an image of ``size`` gets."""
        factor = self.edge / min(size)
        if self.max_size is not None:
            factor = min(factor, self.max_size / max(size))
        return _rounded(size[0] * factor), _rounded(size[1] * factor)


class ResizeToMultiple:
    """Scale up to the next size whose height and width are multiples of ``size_divisor``.

    Args:
        size_divisor: In pixels.
    """

    needs: ClassVar[int] = 0

    def __init__(self, size_divisor: PositiveInt = 32) -> None:
        self.size_divisor = size_divisor

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        height, width = (-(-edge // self.size_divisor) * self.size_divisor for edge in sample.size)
        return sample.apply(WindowedResize((height, width)))


class RandomResize:
    """Scale by a random amount.

    Args:
        scale: (width, height) that the drawn ratio multiplies; or two of them, between whose long and short edges
            the new ones are drawn.
        ratio_range: Lowest and highest ratio, with one ``scale``.
        keep_ratio: Keep the aspect ratio, as `Resize` does.

    Raises:
        UsageError: When ``ratio_range`` is missing with one scale, or given with two.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = ({"scale": (128, 96), "ratio_range": (0.5, 2.0)}, {"scale": [(64, 48), (128, 96)]})

    def __init__(
        self,
        scale: Scale | Sequence[Scale],
        ratio_range: NonNegativeRange | None = None,
        keep_ratio: bool = False,
    ) -> None:
        scales = [scale] if isinstance(scale[0], int) else scale
        self.scales = tuple(_pair(one) for one in scales)  # type: ignore[arg-type]  # one pair, or several
        if (ratio_range is None) == (len(self.scales) == 1) or len(self.scales) > 2:
            raise UsageError("RandomResize needs one 'scale' with 'ratio_range', or two scales without")
        self.ratio_range, self.keep_ratio = ratio_range, keep_ratio

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        return Resize(self._draw(rng), keep_ratio=self.keep_ratio)(sample, rng)

    def _draw(self, rng: np.random.Generator) -> Scale:
        if self.ratio_range is not None:
            low, high = self.ratio_range
            ratio = rng.random() * (high - low) + low
            width, height = self.scales[0]
            return int(width * ratio), int(height * ratio)
        (a, b), (c, d) = self.scales
        long = int(rng.integers(min(max(a, b), max(c, d)), max(max(a, b), max(c, d)) + 1))
        short = int(rng.integers(min(min(a, b), min(c, d)), max(min(a, b), min(c, d)) + 1))
        return long, short


class RandomChoiceResize:
    """Scale to one of several sizes.

    Args:
        scales: Choices, each a ``scale`` of the transform ``resize_type``.
        resize_type: `Resize` or `ResizeShortestEdge`.
        keep_ratio: Keep the aspect ratio, of `Resize`.
        max_size: Limit of the longer edge in pixels, of `ResizeShortestEdge`.

    Raises:
        UsageError: When there is nothing to choose from.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"scales": [64, 96], "resize_type": "ResizeShortestEdge"}

    def __init__(
        self,
        scales: Sequence[PositiveInt | Scale],
        resize_type: Literal["Resize", "ResizeShortestEdge"] = "Resize",
        keep_ratio: bool = False,
        max_size: PositiveInt | None = None,
    ) -> None:
        if not scales:
            raise UsageError("RandomChoiceResize needs at least one scale")
        self.choices: list[Resize | ResizeShortestEdge] = [
            Resize(scale, keep_ratio=keep_ratio) if resize_type == "Resize" else ResizeShortestEdge(scale, max_size)
            for scale in scales
        ]

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        return self.choices[int(rng.integers(len(self.choices)))](sample, rng)


def _pair(scale: int | Scale) -> Scale:
    pair = (scale, scale) if isinstance(scale, int) else (scale[0], scale[1])
    if min(pair) < 1:
        raise UsageError(f"a scale is 1 pixel or more, not {scale}")
    return pair


def _rounded(value: float) -> int:
    return max(1, int(value + 0.5))
