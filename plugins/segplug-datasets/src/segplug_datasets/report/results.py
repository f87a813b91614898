"""Per-image results, from a run directory or from a folder of predictions and the labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.labels import IGNORE
from segplug_datasets import image
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.metrics.counts import confusion
from segplug_datasets.metrics.per_image import PerImage
from segplug_datasets.report.pickles import PICKLES, measure_pickle
from segplug_datasets.report.truth import ByName, Truth

FILE = "per_image.npz"


def find_results(place: str | Path) -> Path | None:
    """Return the results of single images in a run directory, the newest run of a name, or the file itself."""
    place = Path(place)
    if place.is_file():
        return place
    inside = [place / "evaluation" / FILE, place / FILE]
    newest = sorted(place.glob(f"*/evaluation/{FILE}"), reverse=True)
    return next((path for path in [*inside, *newest] if path.is_file()), None)


def load_results(place: str | Path, truth: Truth | None) -> PerImage:
    """Return the results of a run, or of predictions compared with the labels: a folder of PNGs, or a ``.pkl`` file.

    Raises:
        DataError: When there is nothing usable, or a prediction is missing.
        UsageError: When these are predictions and no labels are given.
    """
    if Path(place).suffix in PICKLES and Path(place).is_file():
        if truth is None:
            raise UsageError(f"{place}: holds predictions, give the labels with --labels or --config")
        return measure_pickle(Path(place), truth)
    found = find_results(place)
    if found is not None:
        return PerImage.load(found)
    if not Path(place).is_dir():
        raise DataError("no such run, folder of predictions or file of results", place)
    if truth is None:
        raise UsageError(
            f"{place}: has no evaluation/{FILE}. Test with the hook EvaluationReport, which writes it; or, for a "
            "folder of predictions, give the labels with --labels or --config"
        )
    return _measure(Path(place), truth)


def _measure(folder: Path, truth: Truth) -> PerImage:
    files = ByName(pngs(folder))
    images = PerImage(truth.classes)
    missing = []
    for name, labels in truth:
        path = files.get(name)
        if path is None:
            missing.append(name)
            continue
        ids = truth.decode(image.read_mask(path))
        if ids.shape != labels.shape:
            raise DataError(f"a prediction of {ids.shape} for labels of {labels.shape} (height, width)", path)
        images.add(name, confusion(ids, labels, len(truth.classes)))
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(
            f"{len(missing)} of {len(missing) + len(images)} images have no prediction here: {shown}", folder
        )
    return images


def pngs(folder: Path, suffix: str = ".png") -> dict[str, Path]:
    """Return name to path of the files under a folder that end in ``suffix``.

    Raises:
        DataError: When there are none.
    """
    found = {path.relative_to(folder).as_posix()[: -len(suffix)]: path for path in sorted(folder.rglob(f"*{suffix}"))}
    if not found:
        raise DataError(f"no file here ends in {suffix}", folder)
    return found


def truth_of_folder(folder: Path, labels: LabelSpec | None, suffix: str, ignore: int) -> Truth:
    """Return the ground truth of a folder of PNGs; predictions have the same values.

    Args:
        folder: Folder of label files.
        labels: Meaning of the values; None reads all files once to find the classes.
        suffix: Suffix of the file names after the image's name, such as ``.png``.
        ignore: The ignored value, when ``labels`` is None.
    """
    files = pngs(folder, suffix)
    if labels is None:
        maps = (image.read_mask(path) for path in files.values())
        highest = max(int(values[values != ignore].max(initial=0)) for values in maps)
        labels = LabelSpec(tuple(f"class {value}" for value in range(highest + 1)), ignore=(ignore,))
    return Truth(labels.classes, _Files(files, labels), _decoder(labels))


class _Files:
    """Label maps of files, read again in each iteration."""

    def __init__(self, files: dict[str, Path], labels: LabelSpec) -> None:
        self.files, self.labels = files, labels

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, path in self.files.items():
            yield name, self.labels.encode(image.read_mask(path), str(path))


class _Samples:
    """Label maps of a data set, read again in each iteration."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for index in range(len(self.dataset)):
            sample = self.dataset[index]
            if "seg" not in sample:
                raise DataError("has no annotations to compare with", sample.meta.get("path"))
            yield str(sample.meta.get("name", index)), sample["seg"].array


def truth_of_dataset(dataset: Any, ids: bool) -> Truth:
    """Return the ground truth of a data set; predictions have its file values, or class ids with ``ids``."""
    labels = LabelSpec.of_dataset(dataset)
    return Truth(labels.classes, _Samples(dataset), _as_ids if ids else _decoder(labels))


def _as_ids(values: np.ndarray) -> np.ndarray:
    return values


def _decoder(labels: LabelSpec) -> Any:
    """Return a function from file values to ids; unknown values become 255, which never matches the truth."""
    table = np.full(2**16, IGNORE, np.uint8)
    ids = np.arange(len(labels.classes), dtype=np.uint8)
    table[labels.decode(ids)] = ids

    def decode(values: np.ndarray) -> np.ndarray:
        if values.ndim != 2:
            raise DataError(f"a prediction is a label map of two axes, not of shape {values.shape}: is it an image?")
        return table[values]

    return decode
