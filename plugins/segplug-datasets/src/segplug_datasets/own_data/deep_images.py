"""Images of more than 8 bits per band: read with all bits, with the range of their values mapped to 0 to 255."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segkernel import build
from segplug_datasets.doctor.parts import Part, open_part
from segplug_datasets.doctor.sample_info import SampleInfo
from segplug_datasets.raster_file import Window, open_raster

_SAMPLED = 32  # images
_TAILS = (0.1, 99.9)  # percentiles: single dead or saturated pixels do not count


def is_deep(part: Part, samples: Sequence[SampleInfo]) -> bool:
    """Whether all images of a folder have more than 8 bits per band."""
    depths = [sample.image.header.depth for sample in samples if not sample.image.error]
    return part.type == "FolderDataset" and bool(depths) and min(depths) > 8


def value_range(samples: Sequence[SampleInfo]) -> tuple[int, int]:
    """Return the lowest and highest values of some images, without the extreme 0.1 %.

    Raises:
        SegKernelError: When an image cannot be read, or needs a package for it.
    """
    low, high = [], []
    for sample in samples[:: max(len(samples) // _SAMPLED, 1)][:_SAMPLED]:
        raster = open_raster(sample.image.path)
        below, above = np.percentile(raster.read(Window(0, 0, *raster.size), range(raster.bands)), _TAILS)
        low.append(below)
        high.append(above)
    return int(min(low, default=0)), int(np.ceil(max(high, default=65535)))


def with_all_bits(part: Part, samples: Sequence[SampleInfo], limits: tuple[int, int]) -> Part:
    """Return the set as a `RasterDataset` that maps ``limits`` to 0 and 255; a grey image becomes RGB.

    Raises:
        SegKernelError: When it cannot read the first sample, for example a compressed mask without a package for it.
    """
    grey = all(sample.image.header.channels == 1 for sample in samples)
    arguments = {**part.arguments, "value_range": list(limits), **({"bands": [0, 0, 0]} if grey else {})}
    spec = {"type": "RasterDataset", **arguments}
    build("datasets", spec)[0]
    return open_part(part.name, part.key, spec)
