"""Rasters of any size: windows are read, predicted and written one after the other, in constant memory.

for window in predict_raster(Predictor("best.pt"), "region.tif", "predictions", window=1024, margin=128): ...

A window is read with a margin that is predicted, too, and cut off: where the receptive field of the model is within the
margin, predictions are those of the whole raster. Needs the extra ``rasterio``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.files import relative_path
from segkernel.labels import IGNORE
from segplug_datasets.image import overlay
from segplug_datasets.optional_deps import require_package
from segplug_datasets.predict.outputs import as_bytes, check_formats, shares, write_table
from segplug_datasets.predict.stream import Behind, prefetched
from segplug_datasets.predict.vectors import PIXELS, Coordinates, geojson, geopackage
from segplug_datasets.raster_file import Window, open_raster
from segplug_datasets.visualize import background_ids, draws_itself
from segplug_datasets.writing import written

SCENE_FORMATS = ("labels", "overlays", "probabilities-tiff", "polygons", "geopackage", "shares")
SUFFIXES = (".tif", ".tiff")
LARGE = 2**26
"""Pixels above which ``seg-kernel predict`` reads a raster in windows."""
_BLOCK = 256  # side of the tiles of written files
_VECTORS = {"polygons": (geojson, ".geojson"), "geopackage": (geopackage, ".gpkg")}


def is_scene(source: object) -> bool:
    """Whether a source is a TIFF of more than `LARGE` pixels."""
    if not (isinstance(source, Path) and source.suffix.lower() in SUFFIXES and source.is_file()):
        return False
    try:
        height, width = open_raster(str(source)).size
    except DataError:  # it is reported when it is read
        return False
    return height * width > LARGE


def predict_raster(
    predictor: Any,
    path: str | Path,
    out_dir: str | Path,
    *,
    window: int = 1024,
    margin: int = 128,
    formats: Sequence[str] = ("labels",),
    opacity: float = 0.5,
    name: str | None = None,
) -> Iterator[Window]:
    """Predict a raster in windows; yield each window when it is predicted. Files are complete at the end.

    Args:
        predictor: The model, a `segkernel.Predictor`.
        path: A TIFF, read as the config's data set reads it; without one, 8 or 16 bits of red, green and blue, or grey.
        out_dir: Folder for the files.
        window: Side of a window without its margin, in pixels.
        margin: Pixels around a window that are predicted and cut off. Predictions equal those of the whole raster only
            if both are multiples of the model's largest stride.
        formats: ``labels``, always written: ``pred/NAME.tif``, tiled, compressed, with the raster's georeference and
            the colours of the classes; 255 where it has no data. ``overlays``: ``vis/NAME.tif``, the classes in colour
            over the raster, where that has 8 bits. ``probabilities-tiff``:
            ``probabilities/NAME.tif``, a band of bytes per class. ``polygons``, as GeoJSON, and ``geopackage``: in
            ``polygons``, in the raster's coordinates, without a background. ``shares``: ``NAME_shares.csv``, percent of
            the pixels with data.
        opacity: Opacity of the classes' colours in an overlay, above 0, at most 1.
        name: Name of the files; that of the raster when None.

    Raises:
        DataError: When the raster cannot be read, or a file not written.
        UsageError: When an argument is out of range, or the model does not predict classes.
        ExtraMissingError: When rasterio is not installed.
    """
    if window < 1 or margin < 0:
        raise UsageError(f"window {window} must be 1 or more, margin {margin} 0 or more")
    check_formats(formats, SCENE_FORMATS, " of a raster")
    output = predictor.model.outputs["seg"]
    if predictor.labels.task == "multilabel" or not output.classes or draws_itself(output):
        raise UsageError("rasters are predicted in windows for one class per pixel; this model predicts other values")
    read, (height, width) = _reader(predictor, str(path)), open_raster(str(path)).size
    rasterio = _rasterio()
    called, folder = name or Path(path).stem, Path(out_dir)
    file_name, counts = relative_path(f"{called}.tif"), np.zeros(256, np.int64)
    labels_path, plain = folder / "pred" / file_name, background_ids(predictor.classes)
    several = "probabilities-tiff" in formats
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=64))  # MB
        profile = _profile(rasterio, path)
        classes = stack.enter_context(_Tiff(rasterio, labels_path, {**profile, "count": 1, "nodata": IGNORE}))
        classes.file.write_colormap(1, {number: (*color, 255) for number, color in enumerate(predictor.palette)})
        if several:
            bands = {**profile, "count": len(predictor.classes), "interleave": "band"}
            maps = stack.enter_context(_Tiff(rasterio, folder / "probabilities" / file_name, bands))
        if "overlays" in formats:
            bands = {**profile, "count": 3, "interleave": "pixel", "photometric": "rgb"}
            drawn = stack.enter_context(_Tiff(rasterio, folder / "vis" / file_name, bands))
        write = stack.enter_context(Behind(threads=1, most=2))
        windows = _grid((height, width), window)
        parts = prefetched((part, *read(_with_margin(part, margin, (height, width)))) for part in windows)
        for part, outer, pixels, missing in stack.enter_context(closing(parts)):
            sample = predictor.prepare(pixels, name=called, path=path)
            (prediction,) = predictor.predict_samples([sample], probabilities=several)
            rows = slice(part.top - outer.top, part.top - outer.top + part.height)
            columns = slice(part.left - outer.left, part.left - outer.left + part.width)
            ids = prediction["seg"].numpy()[rows, columns].astype(np.uint8)
            ids = np.where(missing[rows, columns], np.uint8(IGNORE), ids)
            counts += np.bincount(ids.ravel(), minlength=256)
            write(classes.write, ids[None], part)
            if several:
                write(maps.write, as_bytes(prediction["seg_probabilities"].numpy()[:, rows, columns]), part)
            if "overlays" in formats:
                painted = overlay(_of_8_bits(pixels[rows, columns]), ids, predictor.palette, opacity, plain)
                write(drawn.write, painted.transpose(2, 0, 1), part)
            yield part
    _write_vectors(rasterio, labels_path, folder / "polygons", called, predictor.classes, formats)
    if "shares" in formats:
        known = counts[: len(predictor.classes)].tolist()
        row = [called, width, height, *shares(known, sum(known))]
        write_table(folder / f"{called}_shares.csv", predictor.classes, [row])


def _rasterio() -> Any:
    rasterio = require_package("rasterio", "rasterio", "predicting a raster in windows")
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)  # pixels are fine, too
    return rasterio


class _Tiff:
    """A tiled TIFF that is written in windows and appears when it is complete."""

    def __init__(self, rasterio: Any, path: Path, profile: dict[str, Any]) -> None:
        self._stack = ExitStack()
        temporary = self._stack.enter_context(written(path))
        self._window = rasterio.windows.Window
        try:
            self.file = self._stack.enter_context(rasterio.open(temporary, "w", **profile))
        except rasterio.errors.RasterioError as error:
            raise DataError(f"cannot be written: {error}", path) from error

    def __enter__(self) -> _Tiff:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, bands: np.ndarray, window: Window) -> None:
        """Write (bands, height, width)."""
        place = self._window(window.left, window.top, window.width, window.height)
        self.file.write(bands, window=place)


def _profile(rasterio: Any, path: str | Path) -> dict[str, Any]:
    """Return what written files have in common: size and georeference of the raster, tiles."""
    try:
        with rasterio.open(path) as source:
            kept = {key: source.profile[key] for key in ("width", "height", "crs", "transform")}
    except rasterio.errors.RasterioError as error:
        raise DataError(f"cannot be read by rasterio: {error}", path) from error
    tiles = {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "deflate"}
    return {"driver": "GTiff", "dtype": "uint8", "BIGTIFF": "IF_SAFER", **kept, **tiles}


def _grid(size: tuple[int, int], side: int) -> Iterator[Window]:
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            yield Window(top, left, min(side, size[0] - top), min(side, size[1] - left))


def _with_margin(window: Window, margin: int, size: tuple[int, int]) -> Window:
    top, left = max(window.top - margin, 0), max(window.left - margin, 0)
    bottom = min(window.top + window.height + margin, size[0])
    right = min(window.left + window.width + margin, size[1])
    return Window(top, left, bottom - top, right - left)


def _reader(predictor: Any, path: str) -> Callable[[Window], tuple[Window, np.ndarray, np.ndarray]]:
    """Return a function from a window to itself, its image (H, W, C) and where it has no data (H, W) bool."""
    own = getattr(predictor.reader, "window", None)
    if own is not None:
        return lambda window: (window, *own([path], window))
    if getattr(predictor.reader, "takes_pairs", False) or hasattr(predictor.reader, "write"):
        raise UsageError("pairs of images and volumes are not predicted in windows")
    file = open_raster(path)

    def read(window: Window) -> tuple[Window, np.ndarray, np.ndarray]:
        pixels = file.read(window, range(3) if file.bands > 2 else [0, 0, 0])
        if pixels.dtype not in (np.uint8, np.uint16):
            raise DataError(f"contains {pixels.dtype}, which only a RasterDataset of the config reads", path)
        nodata = None if file.nodata is None else (pixels == file.nodata).all(-1)
        missing = np.zeros(pixels.shape[:2], bool) if nodata is None else nodata
        return window, pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8), missing

    return read


def _of_8_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8:  # windows would be stretched differently
        raise UsageError(f"overlays of a raster need images of 8 bits, not {pixels.dtype}")
    return pixels


def _write_vectors(
    rasterio: Any, labels: Path, folder: Path, name: str, classes: Sequence[str], formats: Sequence[str]
) -> None:
    """Trace the written labels; GDAL reads them line by line."""
    wanted = [kind for kind in _VECTORS if kind in formats]
    if not wanted:
        return
    features = require_package("rasterio.features", "rasterio", "polygons of a raster")
    with ExitStack() as stack:
        source = stack.enter_context(rasterio.open(labels))
        system = Coordinates(source.crs.to_epsg(), source.crs.to_wkt()) if source.crs else PIXELS
        paths = {kind: folder / relative_path(f"{name}{_VECTORS[kind][1]}") for kind in wanted}
        files = [stack.enter_context(_VECTORS[kind][0](path, system)) for kind, path in paths.items()]
        plain = {*background_ids(classes), IGNORE}
        for shape, value in features.shapes(rasterio.band(source, 1), connectivity=4, transform=source.transform):
            if (class_id := int(value)) not in plain:
                rings = [np.array(ring) for ring in shape["coordinates"]]
                for file in files:
                    file.add(classes[class_id], class_id, rings)
