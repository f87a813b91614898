"""The files of a prediction: labels, colours, overlays, probabilities, run lengths, polygons, shares of the classes.

Each kind of file is one `OutputFile` in `FORMATS`. Files of single images are written by threads; those of all images
at the end, in the order of the images.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import UsageError, suggest
from segkernel.files import file_name, relative_path
from segkernel.labels import Labels
from segkernel.sample import Prediction
from segplug_datasets import image
from segplug_datasets.annotations.rle import to_coco
from segplug_datasets.georeference import affine_of, epsg_of, write_geotiff
from segplug_datasets.label_files import write_labels
from segplug_datasets.optional_deps import require_package
from segplug_datasets.predict.polygons import polygons
from segplug_datasets.predict.vectors import PIXELS, Coordinates, geojson
from segplug_datasets.visualize import background_ids, draw, draws_itself
from segplug_datasets.writing import written

DEFAULT_FORMATS = ("labels", "overlays")


@dataclass
class Predicted:
    """One prediction, with what its files need.

    Args:
        index: Position among the inputs.
        name: Name of its files, without suffix.
        pixels: The image (H, W, C).
        prediction: The prediction.
        tags: Tags of the georeference; empty without one.
        file: Name of the input file, for `CocoFile`.
    """

    index: int
    name: str
    pixels: np.ndarray
    prediction: Prediction
    tags: list[Any] = field(default_factory=list)
    file: str = ""

    def masks(self, count: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (class id, mask (H, W) bool) of the classes that occur."""
        labels = self.prediction["seg"].numpy()
        for class_id in range(count) if labels.ndim == 3 else np.unique(labels[labels < count]).tolist():
            mask = labels[class_id] == 1 if labels.ndim == 3 else labels == class_id
            if mask.any():
                yield class_id, mask


class OutputFile:
    """Writes one kind of file; `write` may be called by several threads at once.

    Args:
        folder: Folder of the files.
        labels: Classes and colours of the output ``seg``.
        maps: Names of the outputs that are maps.
        opacity: Opacity of colours over an image.
        output: The output ``seg``.
    """

    needs_probabilities = False

    def __init__(self, folder: Path, labels: Labels, maps: Sequence[str], opacity: float, output: Any = None) -> None:
        self.folder, self.labels, self.maps, self.opacity = folder, labels, maps, opacity
        self.output = output

    @classmethod
    def takes(cls, output: Any) -> bool:
        """Whether it can be written for the fields of an output: by default for maps of classes."""
        return bool(output.classes) and not draws_itself(output)

    def write(self, entry: Predicted) -> None:
        """Write the file of a prediction, or remember its part of a file of all."""
        raise NotImplementedError

    def close(self) -> None:
        """Write the file of all predictions, if it is one."""


class LabelFiles(OutputFile):
    """Class ids as PNG, as GeoTIFF for georeferenced images; every map output."""

    @classmethod
    def takes(cls, output: Any) -> bool:
        return True

    def write(self, entry: Predicted) -> None:
        for output in self.maps:
            labels = entry.prediction[output].numpy()
            place = entry.name if output == "seg" else f"{entry.name}_{file_name(output)}"
            if entry.tags and labels.ndim == 2 and labels.dtype.kind in "ui":
                write_geotiff(self.folder / relative_path(f"{place}.tif"), labels, entry.tags)
                continue
            names = self.labels.classes if output == "seg" else [f"class {index}" for index in range(len(labels))]
            write_labels(self.folder, place, labels, names)


class Overlays(OutputFile):
    """The classes in colour over the image, with a legend; or what the output draws itself."""

    @classmethod
    def takes(cls, output: Any) -> bool:
        return True

    def write(self, entry: Predicted) -> None:
        self.draw(entry)

    def draw(self, entry: Predicted, write: bool = True, show: bool = False, wait_time: float = 0) -> None:
        """Draw the overlay; a window needs the main thread."""
        draw(
            entry.pixels,
            entry.prediction,
            classes=self.labels.classes,
            palette=self.labels.palette,
            opacity=self.opacity,
            title=entry.name,
            out_file=self.folder / relative_path(f"{entry.name}.png") if write else None,
            show=show,
            wait_time=wait_time,
            output=self.output,
        )


class ColorFiles(OutputFile):
    """The colours of the classes alone, (H, W, 3); where classes overlap the last one, where there is none black."""

    def write(self, entry: Predicted) -> None:
        colors = np.asarray(self.labels.palette, np.uint8)
        size = entry.prediction["seg"].shape[-2:]
        picture = np.zeros((*size, 3), np.uint8)
        for class_id, mask in entry.masks(len(colors)):
            picture[mask] = colors[class_id]
        image.write(self.folder / relative_path(f"{entry.name}.png"), picture)


class ProbabilityArrays(OutputFile):
    """``probabilities`` (K, H, W) float32 and the names ``classes`` as NPZ, not compressed."""

    needs_probabilities = True

    def write(self, entry: Predicted) -> None:
        path = self.folder / relative_path(f"{entry.name}.npz")
        values = entry.prediction["seg_probabilities"].numpy()
        with written(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, probabilities=values, classes=np.array(self.labels.classes))


class ProbabilityImages(OutputFile):
    """Probabilities as TIFF with a band per class, uint8: 255 is 1."""

    needs_probabilities = True

    def write(self, entry: Predicted) -> None:
        tifffile = require_package("tifffile", "raster", "writing TIFFs")
        path = self.folder / relative_path(f"{entry.name}.tif")
        with written(path) as temporary:
            tifffile.imwrite(
                temporary,
                as_bytes(entry.prediction["seg_probabilities"].numpy()),
                photometric="minisblack",
                planarconfig="separate",
                compression="zlib",
                metadata=None,
                extratags=entry.tags,
            )


def as_bytes(probabilities: np.ndarray) -> np.ndarray:
    """Return probabilities as uint8, 255 for 1."""
    return np.rint(probabilities * 255).clip(0, 255).astype(np.uint8)


class PolygonFiles(OutputFile):
    """A GeoJSON per image, a polygon per connected part of a class without the background; in pixels, or where the
    image has a georeference in its coordinates."""

    def write(self, entry: Predicted) -> None:
        names = self.labels.classes
        affine = affine_of(entry.tags)
        system = Coordinates(epsg_of(entry.tags)) if affine else PIXELS
        with geojson(self.folder / relative_path(f"{entry.name}.geojson"), system) as file:
            for class_id, mask in entry.masks(len(names)):
                if class_id in background_ids(names):
                    continue
                for rings in polygons(mask):
                    file.add(names[class_id], class_id, [_placed(ring, affine) for ring in rings])


def _placed(ring: np.ndarray, affine: Any) -> np.ndarray:
    if affine is None:
        return ring
    a, b, c, d, e, f = affine
    x, y = ring.T
    return np.stack([a * x + b * y + c, d * x + e * y + f], 1)


class _OfAll(OutputFile):
    """A file of all predictions."""

    def __init__(self, folder: Path, labels: Labels, maps: Sequence[str], opacity: float, output: Any = None) -> None:
        super().__init__(folder, labels, maps, opacity, output)
        self.entries: dict[int, Any] = {}

    def _in_order(self) -> list[Any]:
        return [self.entries[index] for index in sorted(self.entries)]


class CocoFile(_OfAll):
    """``predictions.json``: COCO's run lengths, one annotation per image and class; or the objects of an output that
    has them, with scores."""

    @classmethod
    def takes(cls, output: Any) -> bool:
        return hasattr(output, "results") or super().takes(output)

    def write(self, entry: Predicted) -> None:
        height, width = entry.pixels.shape[:2]
        made = {"file_name": entry.file or f"{entry.name}.png", "height": height, "width": width}
        own = hasattr(self.output, "results")
        found = self.output.results(entry.prediction["seg"]) if own else self._classes(entry)
        self.entries[entry.index] = (made, found)

    def _classes(self, entry: Predicted) -> list[dict[str, Any]]:
        found = []
        for class_id, mask in entry.masks(len(self.labels.classes)):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            area, box = int(np.count_nonzero(mask)), [int(value) for value in box]
            found.append(
                {"category_id": class_id, "segmentation": to_coco(mask), "area": area, "bbox": box, "iscrowd": 1}
            )
        return found

    def close(self) -> None:
        content: dict[str, list[Any]] = {"images": [], "annotations": []}
        content["categories"] = [{"id": number, "name": name} for number, name in enumerate(self.labels.classes)]
        for image_id, (made, found) in enumerate(self._in_order(), 1):
            content["images"].append({"id": image_id, **made})
            for annotation in found:
                number = len(content["annotations"]) + 1
                content["annotations"].append({"id": number, **annotation, "image_id": image_id})
        with written(self.folder / "predictions.json") as temporary:
            temporary.write_text(json.dumps(content), "utf-8")


class SharesTable(_OfAll):
    """``shares.csv``: one line per image, percent of its pixels that belong to each class."""

    def write(self, entry: Predicted) -> None:
        height, width = entry.prediction["seg"].shape[-2:]
        counts = [0] * len(self.labels.classes)
        for class_id, mask in entry.masks(len(counts)):
            counts[class_id] = int(np.count_nonzero(mask))
        self.entries[entry.index] = [entry.name, width, height, *shares(counts, height * width)]

    def close(self) -> None:
        write_table(self.folder / "shares.csv", self.labels.classes, self._in_order())


def shares(counts: Sequence[int], pixels: int) -> list[str]:
    """Return numbers of pixels as percent."""
    return [f"{100 * count / max(pixels, 1):.4f}" for count in counts]


def write_table(path: Path, classes: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write the shares of classes as CSV."""
    with written(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "width", "height", *classes], *rows])


FORMATS: dict[str, tuple[type[OutputFile], str]] = {
    "labels": (LabelFiles, "pred"),
    "overlays": (Overlays, "vis"),
    "colors": (ColorFiles, "colors"),
    "probabilities": (ProbabilityArrays, "probabilities"),
    "probabilities-tiff": (ProbabilityImages, "probabilities"),
    "rle": (CocoFile, ""),
    "polygons": (PolygonFiles, "polygons"),
    "shares": (SharesTable, ""),
}
"""The kinds of files, and the subfolder of each."""


class Outputs:
    """The files of all predictions of one call.

    Args:
        folder: Output folder.
        predictor: The model: its labels and outputs.
        formats: Keys of `FORMATS`.
        opacity: Opacity of the colours of overlays, above 0, at most 1.
        folders: Other subfolders than those in `FORMATS`; an empty one for labels or overlays writes none.

    Raises:
        UsageError: An unknown format, or one that the model's output does not have.
    """

    def __init__(
        self, folder: Path, predictor: Any, formats: Sequence[str], opacity: float, folders: dict[str, str]
    ) -> None:
        if not 0 < opacity <= 1:
            raise UsageError(f"opacity must be above 0 and at most 1, not {opacity}")
        check_formats(formats, FORMATS)
        maps, output = map_outputs(predictor), predictor.model.outputs["seg"]
        self.files: dict[str, OutputFile] = {}
        for name in dict.fromkeys(formats):
            kind, subfolder = FORMATS[name]
            subfolder = folders.get(name, subfolder)
            if name in folders and not subfolder:
                continue
            if not kind.takes(output):
                raise UsageError(f"format {name} is for classes of pixels, but the model predicts other values")
            if name != "overlays" or "seg" in maps or draws_itself(output):
                self.files[name] = kind(folder / subfolder, predictor.labels, maps, opacity, output)

    @property
    def need_probabilities(self) -> bool:
        """Whether a file needs probabilities."""
        return any(file.needs_probabilities for file in self.files.values())

    def jobs(self, entry: Predicted) -> Iterator[Callable[[], None]]:
        """Yield functions that write the files of a prediction."""
        for file in self.files.values():
            yield lambda file=file: file.write(entry)  # type: ignore[misc]

    def close(self) -> None:
        """Write the files of all predictions."""
        for file in self.files.values():
            file.close()


def check_formats(formats: Sequence[str], known: Sequence[str] | dict[str, Any], what: str = "") -> None:
    """Check the names of formats; ``what`` is added to them in the message.

    Raises:
        UsageError: When one is unknown.
    """
    for name in formats:
        if name not in known:
            raise UsageError(f"unknown format {name!r}{what}; {suggest(name, list(known))}")


def map_outputs(predictor: Any) -> list[str]:
    """Return the names of outputs that are maps, which can be drawn and written."""
    from segkernel.interfaces.model import PixelMap

    return [name for name, output in predictor.model.outputs.items() if isinstance(output, PixelMap)]
