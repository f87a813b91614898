"""Measurements of a training set: image sizes, class shares, and widths of the objects of each class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from segkernel.errors import DataError
from segkernel.image import opencv
from segplug_datasets import image
from segplug_datasets.doctor.parts import Part
from segplug_datasets.doctor.sample_info import Pair, SampleInfo
from segplug_datasets.doctor.stats import DatasetStats
from segplug_datasets.label_reader import LabelReader
from segplug_datasets.own_data.recipe import Facts

_SAMPLED = 32  # images; a distance transform takes 10 ms per class
_MOST_CLASSES = 40
_COUNTED = 0.0005  # least share of an image's pixels; smaller areas may be labelling errors


def gather(stats: DatasetStats, part: Part, samples: Sequence[SampleInfo]) -> Facts:
    """Return the facts of a training set; widths are measured on some of its label maps."""
    shares = {name: stats.share(place) for place, name in enumerate(stats.classes)}
    common = max(range(len(stats.classes)), key=stats.share)
    known = set(list(range(len(stats.classes)))[:_MOST_CLASSES]) - {common}
    widths: dict[int, list[float]] = defaultdict(list)
    for labels in _label_maps(part, samples):
        for place in known.intersection(np.unique(labels).tolist()):
            width = _width(labels == place)
            widths[place] += [width] if width else []
    typical = {stats.classes[place]: float(np.median(found)) for place, found in sorted(widths.items())}
    return Facts(stats.images, list(zip(stats.heights, stats.widths)), shares, typical)


def _width(mask: np.ndarray) -> float:
    """Return the width in pixels of the area in a mask (H, W) bool: that of a stripe of the same mean depth."""
    if mask.mean() < _COUNTED or mask.all():
        return 0.0
    cv2 = opencv()
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    return max(4 * float(depth[mask].mean()) - 2, 1.0)


def _label_maps(part: Part, samples: Sequence[SampleInfo]) -> Iterator[np.ndarray]:
    """Yield the class ids of some samples, spread over the set."""
    names = {sample.name for sample in samples}
    pairs: list[Pair] = [pair for pair in part.pairs if pair.name in names] or list(part.pairs)
    for pair in pairs[:: max(len(pairs) // _SAMPLED, 1)][:_SAMPLED]:
        try:
            if pair.mask is not None and part.labels is not None:
                yield LabelReader(part.labels, part.colors).encode(
                    image.read_mask(pair.mask), None, pair.mask, pair.image
                )
            elif part.dataset is not None and "seg" in (sample := part.dataset[pair.index]):
                yield sample["seg"].array
        except DataError:
            continue
