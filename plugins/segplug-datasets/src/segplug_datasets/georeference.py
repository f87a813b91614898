"""GeoTIFFs: label maps with the georeference of their raster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError
from segplug_datasets.optional_deps import ExtraMissingError, require_package
from segplug_datasets.writing import written

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


Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): a pixel corner (x, y) is at (a x + b y + c, d x + e y + f)."""

_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072  # GeoKeys
_PIXEL_IS_POINT, _USER_DEFINED = 2, 32767


def affine_of(tags: list[Any]) -> Affine | None:
    """Return the transformation from pixel corners to coordinates in georeferencing tags; None without one."""
    values = {code: value for code, _, _, value, _ in tags}
    if 34264 in values:
        a, b, _, c, d, e, _, f = values[34264][:8]
    elif 33550 in values and 33922 in values:
        a, e, (column, row, _, x, y, _) = values[33550][0], -values[33550][1], values[33922][:6]
        b, d, c, f = 0.0, 0.0, x - column * a, y - row * e
    else:
        return None
    if _geo_keys(values).get(_RASTER_TYPE) == _PIXEL_IS_POINT:  # the tie is the pixel's centre
        c, f = c - (a + b) / 2, f - (d + e) / 2
    return a, b, c, d, e, f


def epsg_of(tags: list[Any]) -> int | None:
    """Return the EPSG code of the coordinates in georeferencing tags; None without one."""
    keys = _geo_keys({code: value for code, _, _, value, _ in tags})
    code = keys.get(_PROJECTED) or keys.get(_GEOGRAPHIC)
    return None if code in (None, 0, _USER_DEFINED) else code


def _geo_keys(values: dict[int, Any]) -> dict[int, int]:
    """Return the numbers in the GeoKey directory."""
    entries = list(values.get(34735, ()))[4:]
    return {key: value for key, place, _, value in zip(*[iter(entries)] * 4) if place == 0}


def write_geotiff(path: Path, labels: np.ndarray, tags: list[Any]) -> None:
    """Write a label map (H, W) as a TIFF of 8 bits, or 16 when a value needs them, georeferenced by ``tags``."""
    tifffile = require_package("tifffile", "raster", "writing rasters")
    array = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    with written(path) as temporary:
        tifffile.imwrite(temporary, array, photometric="minisblack", compression="zlib", metadata=None, extratags=tags)
