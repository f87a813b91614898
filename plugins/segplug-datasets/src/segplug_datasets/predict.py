"""Prediction of many images: from folders, patterns and lists to label files and overlays, one image at a time.

for prediction in predict_images(Predictor("best.pt"), "photos/", "predictions"): ...
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.files import file_name
from segkernel.sample import Sample
from segplug_datasets.georeference import georeference, write_geotiff
from segplug_datasets.label_files import write_labels
from segplug_datasets.listing import IMAGE_SUFFIXES, NamedFiles, locate, read_list
from segplug_datasets.visualize import draw

if TYPE_CHECKING:
    from segkernel import Predictor
    from segkernel.sample import Prediction

Image = str | Path | np.ndarray
"""Inputs of `segkernel.Predictor.read`."""

SUFFIXES = (*IMAGE_SUFFIXES, ".ppm")
"""Suffixes of images in a folder; without any such file, `DATA_SUFFIXES`."""
DATA_SUFFIXES = (".npy", ".npz", ".nii", ".nii.gz")


class UnusableImages(DataError):
    """Some images could not be predicted; the others were.

    Args:
        errors: One per unusable image.
    """

    def __init__(self, errors: Sequence[DataError]) -> None:
        self.errors = tuple(errors)
        listed = "".join(f"\n    {error}" for error in self.errors[:20])
        more = f"\n    and {len(errors) - 20} more" if len(errors) > 20 else ""
        super().__init__(f"{len(errors)} of the images could not be predicted, the others were{listed}{more}")


def predict_images(
    predictor: Predictor,
    inputs: Image | Iterable[Image],
    out_dir: str | Path | None = None,
    *,
    seconds: Image | Iterable[Image] | None = None,
    img_out_dir: str = "vis",
    pred_out_dir: str = "pred",
    opacity: float = 0.5,
    show: bool = False,
    wait_time: float = 0,
    probabilities: bool = False,
) -> Iterator[Prediction]:
    """Predict images one by one, with only one in memory; write the requested files.

    Args:
        predictor: The model.
        inputs: See `collect_images`.
        seconds: Second images, given like ``inputs``, for models that compare two images of one place; files are
            matched by name, arrays and single files by order.
        out_dir: Folder for overlays and label maps (PNGs of class ids, or one binary PNG per class in a folder each
            for multilabel models; GeoTIFFs for GeoTIFFs, volumes for volumes); None writes nothing.
        img_out_dir: Subfolder for the overlays; empty writes none.
        pred_out_dir: Subfolder for the label maps; empty writes none.
        opacity: Opacity of the classes' colours, above 0, at most 1.
        show: Show each overlay in a window.
        wait_time: Seconds a window stays open; 0 waits for a key.
        probabilities: Also return the probabilities, ``seg_probabilities`` (K, H, W).

    Raises:
        UnusableImages: At the end, when some of several images could not be predicted.
        DataError: When a single image cannot be predicted.
    """
    if not 0 < opacity <= 1:
        raise UsageError(f"opacity must be above 0 and at most 1, not {opacity}")
    images: list[Any] = collect_images(inputs)
    overlays = Path(out_dir) / img_out_dir if out_dir is not None and img_out_dir else None
    labels = Path(out_dir) / pred_out_dir if out_dir is not None and pred_out_dir else None
    errors: list[DataError] = []
    names = _output_names(images)
    if seconds is not None:
        images = _pairs(images, collect_images(seconds))
    for name, source in zip(names, images):
        try:
            pixels = predictor.read(source)
            first = source[0] if isinstance(source, tuple) else source
            path = None if isinstance(first, np.ndarray) else first
            if isinstance(pixels, list):
                yield _predict_volume(predictor, pixels, name, source, labels, probabilities)
                continue
            prediction = predictor.predict(pixels, name=name, path=path, probabilities=probabilities)
        except DataError as error:
            errors.append(error)
            continue
        if labels:
            _write_labels(labels, name, prediction, predictor, [] if path is None else georeference(path))
        if (overlays or show) and "seg" in _maps(predictor):
            file = overlays / f"{name}.png" if overlays else None
            classes, palette = predictor.classes, predictor.palette
            image = pixels.image if isinstance(pixels, Sample) else pixels
            draw(
                image,
                prediction,
                classes=classes,
                palette=palette,
                opacity=opacity,
                title=name,
                out_file=file,
                show=show,
                wait_time=wait_time,
            )
        yield prediction
    if errors:
        raise errors[0] if len(images) == 1 else UnusableImages(errors)


def _pairs(firsts: Sequence[Path | np.ndarray], seconds: Sequence[Path | np.ndarray]) -> list[tuple[Any, Any]]:
    """Return pairs of first and second images.

    Raises:
        DataError: When an image is unpaired.
    """
    named = [isinstance(image, Path) for image in (*firsts, *seconds)]
    if not all(named) or len(firsts) == len(seconds) == 1:
        if len(firsts) != len(seconds):
            raise DataError(f"{len(firsts)} first and {len(seconds)} second images: the numbers must be equal")
        return list(zip(firsts, seconds))
    by_name, names = dict(zip(_output_names(seconds), seconds)), _output_names(firsts)
    missing = [first for name, first in zip(names, firsts) if name not in by_name]
    if missing or len(firsts) != len(seconds):
        unpaired = missing[0] if missing else f"{len(seconds) - len(firsts)} second images"
        raise DataError("is unpaired: first and second images need the same names", str(unpaired))
    return [(first, by_name[name]) for name, first in zip(names, firsts)]


def collect_images(inputs: Image | Iterable[Image]) -> list[Path | np.ndarray]:
    """Return the images of a path, array, list, folder, glob pattern or ``.txt`` list.

    Raises:
        DataError: When a folder has no images or a pattern matches none.
        UsageError: When it is none of these.
    """
    if isinstance(inputs, np.ndarray):
        return [inputs]
    if isinstance(inputs, str | Path):
        if not str(inputs):
            raise UsageError("an empty string is not a path of an image")
        return list(_collect_path(Path(inputs).expanduser()))
    if isinstance(inputs, Iterable) and not (isinstance(inputs, bytes | Mapping) or hasattr(inputs, "shape")):
        return [one for entry in inputs for one in collect_images(entry)]
    raise UsageError(f"an image must be a path or an array (H, W, 3) uint8 RGB, not a {type(inputs).__name__}")


def _collect_path(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        for suffixes in (SUFFIXES, DATA_SUFFIXES):
            if found := [entry for entry in files if entry.name.lower().endswith(suffixes)]:
                return found
        raise DataError(f"no images in this folder ({', '.join([*SUFFIXES, *DATA_SUFFIXES])})", path)
    if path.is_file() and path.suffix.lower() == ".txt":
        siblings = NamedFiles(path.parent)
        lines = read_list(path, lambda line: locate(line, [siblings]) is not None)
        return [Path(locate(line, [siblings]) or path.parent / line) for line in lines]
    if not path.exists() and glob.has_magic(str(path)):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
        if not matches:
            raise DataError("no file matches this pattern", path)
        return matches
    return [path]


def _output_names(images: Sequence[Path | np.ndarray]) -> list[str]:
    """Return unique output names from file names: a and a_2 for a.jpg and a.png."""
    names: dict[str, None] = {}
    for index, source in enumerate(images):
        stem = Path(source.name.removesuffix(".gz")).stem if isinstance(source, Path) else f"{index:06d}"
        name, count = stem, 1
        while name in names:
            count += 1
            name = f"{stem}_{count}"
        names[name] = None
    return list(names)


def _maps(predictor: Predictor) -> list[str]:
    """Return the names of outputs that are maps, which can be drawn and written."""
    from segkernel.interfaces.model import PixelMap

    return [name for name, output in predictor.model.outputs.items() if isinstance(output, PixelMap)]


def _predict_volume(
    predictor: Predictor, slices: Sequence[np.ndarray], name: str, path: Any, folder: Path | None, probabilities: bool
) -> Prediction:
    """Return the prediction of a volume, whose fields have the slices as first axis; write its label volume."""
    from torch import stack

    found = [predictor.predict(pixels, name=name, path=path, probabilities=probabilities) for pixels in slices]
    for output in _maps(predictor) if folder else ():
        place = folder / (name if output == "seg" else f"{name}_{file_name(output)}")  # type: ignore[operator]
        predictor.reader.write(place, [prediction[output].numpy() for prediction in found], path)
    fields = {key: stack([prediction[key] for prediction in found]) for key in found[0].fields}
    return type(found[0])(fields, found[0].meta)


def _write_labels(folder: Path, name: str, prediction: Prediction, predictor: Predictor, tags: list[Any]) -> None:
    for output in _maps(predictor):
        labels = prediction[output].numpy()
        place = name if output == "seg" else f"{name}_{file_name(output)}"
        if tags and labels.ndim == 2 and labels.dtype.kind in "ui":
            write_geotiff(folder / f"{place}.tif", labels, tags)
            continue
        classes = predictor.classes if output == "seg" else [f"class {index}" for index in range(len(labels))]
        write_labels(folder, place, labels, classes)
