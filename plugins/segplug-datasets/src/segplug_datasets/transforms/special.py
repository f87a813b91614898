"""Transforms for one kind of task: borders, change between two images, depth, coarse labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from segkernel.annotations import LabelId, Positive, PositiveInt, Probability
from segkernel.errors import DataError, UsageError
from segkernel.image import opencv
from segkernel.labels import IGNORE
from segkernel.sample import LabelMap, Sample
from segplug_datasets.fields import EdgeMap
from segplug_datasets.geometry import Resize
from segplug_datasets.transforms.checks import need_class_ids


class GenerateEdge:
    """Add the field ``edge``: 1 on and around the borders between classes in the field ``seg``.

    Args:
        edge_width: Width of the edges in pixels.
        ignore_index: Label that has no borders.

    Raises:
        DataError: When a sample has no labels.
    """

    needs: ClassVar[int] = 0

    def __init__(self, edge_width: PositiveInt = 3, ignore_index: LabelId = IGNORE) -> None:
        if edge_width < 1:
            raise UsageError(f"edge_width must be 1 pixel or more, not {edge_width}")
        self.edge_width, self.ignore_index = edge_width, ignore_index

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        need_class_ids(sample, "GenerateEdge")
        cv2 = opencv()
        kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (self.edge_width, self.edge_width))
        sample["edge"] = EdgeMap(cv2.dilate(self._borders(sample["seg"].array), kernel))
        return sample

    def _borders(self, labels: np.ndarray) -> np.ndarray:
        """Return 1 where a pixel differs from its neighbour above, to the right, or on a diagonal below."""
        borders = np.zeros(labels.shape, np.uint8)
        down, up, left, right = np.s_[1:], np.s_[:-1], np.s_[:-1], np.s_[1:]
        every = np.s_[:]
        for here, there in (
            ((down, every), (up, every)),
            ((every, left), (every, right)),
            ((up, left), (down, right)),
            ((up, right), (down, left)),
        ):
            one, other = labels[here], labels[there]
            borders[here] |= (one != other) & (one != self.ignore_index) & (other != self.ignore_index)
        return borders


class ConcatCDInput:
    """Concatenate images of one place along the channels: the image, and fields with other images.

    Args:
        input_keys: In this order; ``img`` is the image, other names are fields, which are removed.

    Raises:
        DataError: When a sample has no such field.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"input_keys": ["img", "img"]}  # the conformance samples have one image

    def __init__(self, input_keys: Sequence[str] = ("img", "img2")) -> None:
        self.input_keys = tuple(input_keys)

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        fields = [key for key in self.input_keys if key != "img"]
        missing = [key for key in fields if key not in sample]
        if missing:
            message = f"ConcatCDInput finds no field {missing[0]!r}: is this a data set of pairs of images?"
            raise DataError(message, sample.meta.get("path"))
        images = [sample.image if key == "img" else sample[key].array for key in self.input_keys]
        sample.image = np.concatenate(images, 2)
        for key in fields:
            del sample[key]
        return sample


class RandomDepthMix:
    """Replace a vertical strip of the image by its depth, as grey (Ishii and Yamashita, CutDepth, 2021).

    The farthest point of the sample is white. A sample without the field ``depth`` stays as it is.

    Args:
        prob: Probability of replacing a strip.
        mix_scale_ratio: Widest strip, as a share of the image right of its left edge.
    """

    needs: ClassVar[int] = 0

    def __init__(self, prob: Probability = 0.25, mix_scale_ratio: Probability = 0.75) -> None:
        self.prob, self.mix_scale_ratio = prob, mix_scale_ratio

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if "depth" not in sample or rng.random() > self.prob:
            return sample
        width = sample.size[1]
        left = int(width * rng.random())
        strip = slice(left, left + int(max(1, (width - left) * self.mix_scale_ratio * rng.random())))
        depth = sample["depth"].array
        grey = depth[:, strip] * (255 / max(float(depth.max()), 1e-6))
        sample.image = sample.image.copy()
        sample.image[:, strip] = grey[..., None].astype(sample.image.dtype)
        return sample


class SegRescale:
    """Coarsen label maps to the resolution of a net whose output is ``scale_factor`` times the image's size.

    They keep the image's size, to which logits are upsampled: labels are downsampled and upsampled again, both to the
    nearest. Factors from 1 on change nothing.

    Args:
        scale_factor: Size of the coarse map over that of the image.

    Raises:
        UsageError: Unless it is positive.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"scale_factor": 0.5}

    def __init__(self, scale_factor: Positive = 1) -> None:
        if scale_factor <= 0:
            raise UsageError(f"scale_factor must be above 0, not {scale_factor}")
        self.scale_factor = scale_factor

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if self.scale_factor >= 1:
            return sample
        size = sample.size
        height, width = (max(1, round(edge * self.scale_factor)) for edge in size)
        for name in sample:
            if isinstance(sample[name], LabelMap):
                coarse = sample[name].apply(Resize((height, width)), size)
                sample[name] = coarse.apply(Resize(size), (height, width))
        return sample
