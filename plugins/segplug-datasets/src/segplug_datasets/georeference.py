"""GeoTIFFs: label maps with the georeference of their raster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError
from segkernel.files import replacing
from segplug_datasets.optional_deps import ExtraMissingError, require_package

_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
"""Pixel scale, tie points, transformation, and the GeoKey directory with its numbers and texts."""


def georeference(path: str | Path) -> list[Any]:
    """Return the georeferencing tags of a TIFF for `write_geotiff`; empty for other files."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return []
    try:
        with require_package("tifffile", "raster", "reading rasters").TiffFile(path) as file:
            tags = file.pages[0].tags
            found = [tags[code] for code in _TAGS if code in tags]
            return [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in found]
    except ExtraMissingError:
        return []
    except Exception as error:  # tifffile may raise anything on a damaged file
        raise DataError(f"cannot be read as a TIFF: {error}", path) from error


def write_geotiff(path: Path, labels: np.ndarray, tags: list[Any]) -> None:
    """Write a label map (H, W) as a TIFF of 8 bits, or 16 when a value needs them, georeferenced by ``tags``."""
    tifffile = require_package("tifffile", "raster", "writing rasters")
    path.parent.mkdir(parents=True, exist_ok=True)
    array = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    try:
        with replacing(path) as temporary:
            tifffile.imwrite(
                temporary, array, photometric="minisblack", compression="zlib", metadata=None, extratags=tags
            )
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", path) from error
