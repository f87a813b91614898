"""Inference in three lines: a model by name, config, checkpoint or object; an image, a list or a folder.

predictor = Predictor("work_dirs/quickstart/best.pt")
prediction = predictor("street.jpg", out_dir="predictions")     # pred/street.png, vis/street.png
prediction.labels                                               # (H, W) class ids at the image's own size
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkernel import image
from segkernel.build import build, construct
from segkernel.catalog import Catalog
from segkernel.data import apply_eval_transforms
from segkernel.engine import LocalEngine
from segkernel.errors import ComponentError, DataError, UsageError
from segkernel.inference import TTA, Preprocessor, predict_batch
from segkernel.interfaces.data import Color, Dataset, LabelSpec, Transform
from segkernel.interfaces.model import OutputSpec, Segmentor, TestConfig
from segkernel.opening import catalog_of, open_model
from segkernel.sample import Batch, Prediction, Sample, collate

log = logging.getLogger(__name__)

Image = str | Path | np.ndarray
"""A file, or (H, W, 3) uint8 RGB."""

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


class UnusableImages(DataError):
    """Some of several images could not be predicted; the others were.

    Args:
        errors: One per unusable image.
    """

    def __init__(self, errors: Sequence[DataError]) -> None:
        self.errors = tuple(errors)
        self.predictions: list[Prediction] = []
        listed = "".join(f"\n    {error}" for error in self.errors[:20])
        more = f"\n    and {len(errors) - 20} more" if len(errors) > 20 else ""
        super().__init__(f"{len(errors)} of the images could not be predicted, the others were{listed}{more}")


class Predictor:
    """Predicts images of any size with one model.

    Args:
        model: A packaged or local config name, a config file, a checkpoint that holds its config, an exported file,
            or a built module (it is put into evaluation mode).
        weights: A checkpoint for the model; it must fit completely.
        device: Any torch device, or ``auto``. None is ``auto``, or where a built module already is.
        classes: Names; they win over the data set's, which win over those in the checkpoint.
        palette: One RGB colour per class, likewise.
        dataset: What the classes are taken from: a data set, or a data set's class, name or config.
        transforms: Applied to each image; None takes the config's ``data.eval_transforms``.
        preprocess: Arguments of `Preprocessor`; None takes the config's, or the checkpoint's.
        test_cfg: Whole or sliding windows; None takes the config's, or the model's.
        tta: Test-time augmentation.

    Raises:
        ConfigError, CheckpointError, UsageError: When the parts are missing or do not fit together.
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
        classes: Sequence[str] | None = None,
        palette: Sequence[Color] | None = None,
        dataset: Dataset | type | str | Mapping[str, Any] | LabelSpec | None = None,
        *,
        transforms: Sequence[Transform] | None = None,
        preprocess: Mapping[str, Any] | None = None,
        test_cfg: TestConfig | None = None,
        tta: TTA | None = None,
    ) -> None:
        opened = open_model(model, weights)
        built, meta, config = opened.model, opened.meta, opened.config
        self.config = config
        if opened.random:
            log.warning("no weights were given, the predictions mean nothing; give a checkpoint")
        data = (config.get("data") if config else None) or {}
        catalog = catalog_of(config)
        known = _labels_of(dataset, catalog) or _labels_in(meta) or _labels_in_config(data, catalog)
        names = classes or (known.classes if known else None)
        self.model: Any = built if hasattr(built, "outputs") else _PlainModule(built, names)
        output = self.model.outputs["seg"]
        self.labels = _settle_labels(classes, palette, None if output.is_real else known, output.classes)
        specs = data.get("eval_transforms") or ()
        self.transforms = [build("transforms", t, catalog=catalog) for t in specs] if transforms is None else transforms
        wanted = preprocess or data.get("preprocess") or meta.get("preprocess") or {}
        self.preprocessor = construct(Preprocessor, wanted, path="preprocess", catalog=catalog)
        evaluate = (config.get("evaluate") if config else None) or {}
        self.test_cfg: TestConfig | None = test_cfg or evaluate.get("test_cfg") or getattr(self.model, "test_cfg", None)
        self.tta = tta
        self._engine = LocalEngine(str(device or _device_of(built if isinstance(model, nn.Module) else None)))
        self._engine.prepare_model(self.model.eval(), self.preprocessor.eval())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.labels.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """One RGB colour per class."""
        return self.labels.palette

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._engine.device

    def __call__(self, inputs: Image | Iterable[Image], **options: Any) -> Any:
        """Predict one image, or several.

        Args:
            inputs: A path or an array (H, W, 3) uint8 RGB; a list of these, a folder, a glob pattern, or a ``.txt``
                file with one path per line.
            options: As `stream`'s.

        Returns:
            One `Prediction` for a path or an array, else a list in the order of the images; on the CPU.

        Raises:
            DataError: When an image cannot be read; with several, all others are predicted (and written) first, and
                the `UnusableImages` that is raised has them as ``predictions``.
        """
        images = collect(inputs)
        # Not by comparing what is inside: a list of one array cannot be compared with an array.
        alone = isinstance(inputs, np.ndarray) or (isinstance(inputs, str | Path) and images == [_path(inputs)])
        predictions: list[Prediction] = []
        try:
            for prediction in self.stream(images, **options):
                predictions.append(prediction)
        except UnusableImages as error:
            error.predictions = predictions
            raise
        return predictions[0] if alone else predictions

    def stream(
        self,
        inputs: Image | Iterable[Image],
        *,
        show: bool = False,
        wait_time: float = 0,
        opacity: float = 0.5,
        out_dir: str | Path | None = None,
        img_out_dir: str = "vis",
        pred_out_dir: str = "pred",
        scores: bool = False,
    ) -> Iterator[Prediction]:
        """Predict image after image, holding only one in memory.

        Args:
            inputs: As for a call.
            show: Show each in a window.
            wait_time: Seconds it stays; 0 waits for a key.
            opacity: Of the classes' colours, above 0, at most 1.
            out_dir: Write pictures and label maps (PNG of class ids; of yes and no in a folder for each class) below
                this folder; None writes nothing.
            img_out_dir: Folder of the pictures in it; empty writes none.
            pred_out_dir: Folder of the label maps in it; empty writes none.
            scores: Also keep the probabilities, ``seg_scores`` (K, H, W).
        """
        if not 0 < opacity <= 1:
            raise UsageError(f"opacity is above 0 and at most 1, not {opacity}")
        images = collect(inputs)
        pictures = Path(out_dir) / img_out_dir if out_dir is not None and img_out_dir else None
        labels = Path(out_dir) / pred_out_dir if out_dir is not None and pred_out_dir else None
        errors: list[DataError] = []
        for name, source in zip(_names(images), images):
            try:
                pixels = _pixels(source)
                prediction = self._predict(pixels, name, None if isinstance(source, np.ndarray) else source, scores)
            except DataError as error:
                errors.append(error)
                continue
            if labels:
                _write_labels(labels, name, prediction, self.model.outputs, self.classes)
            if pictures or show:
                file = pictures / f"{name}.png" if pictures else None
                image.draw(pixels, prediction, None, self.classes, self.palette, opacity, name, file, show, wait_time)
            yield prediction
        if errors:
            raise errors[0] if len(images) == 1 else UnusableImages(errors)

    def example(self, source: Image) -> Tensor:
        """Return an image as the model sees it: (1, C, H, W) float32, transformed and normalised, on its device."""
        images, _ = self.preprocessor(self._batch(_pixels(collect(source)[0]), "example", None))
        return images

    def metadata(self) -> dict[str, Any]:
        """Return what an exported file should know, as plain values."""
        from segkernel import rundir

        return {
            "classes": list(self.classes),
            "palette": [list(color) for color in self.palette],
            "config": rundir.plain(self.config.data) if self.config else {},
            "preprocess": rundir.plain(self.preprocessor.config()),
            "plugins": rundir.plugin_versions(),
        }

    def _batch(self, pixels: np.ndarray, name: str, path: Any) -> Batch:
        meta = {"path": None if path is None else str(path), "name": name}
        sample = Sample(image=pixels, meta=meta, original_size=pixels.shape[:2])
        return collate([apply_eval_transforms(self.transforms, sample, np.random.default_rng(0))]).to(self.device)

    def _predict(self, pixels: np.ndarray, name: str, path: Any, scores: bool) -> Prediction:
        batch = self._batch(pixels, name, path)
        try:
            prediction = predict_batch(
                self._engine.predict,
                batch,
                preprocessor=self.preprocessor,
                outputs=self.model.outputs,
                test_cfg=self.test_cfg,
                tta=self.tta,
                scores=scores,
            )[0]
        except RuntimeError as error:  # too small for the model's strides, or too large for the memory
            size = "x".join(str(length) for length in pixels.shape[:2])
            reason = str(error).splitlines()[0]
            raise DataError(f"the model cannot take an image of {size} pixels: {reason}", path or name) from error
        return prediction.cpu()


# ---------------------------------------------------------------- images


def collect(inputs: Image | Iterable[Image]) -> list[Path | np.ndarray]:
    """Return the images that a path, array, list, folder, glob pattern or ``.txt`` list stands for.

    Raises:
        DataError: When a folder has no images or a pattern matches none.
        UsageError: When it is none of these.
    """
    if isinstance(inputs, np.ndarray):
        return [inputs]
    if isinstance(inputs, str | Path):
        return _collect_path(_path(inputs))
    if isinstance(inputs, Iterable) and not isinstance(inputs, Tensor | bytes | Mapping):
        return [one for entry in inputs for one in collect(entry)]
    raise UsageError(f"an image is a path or an array (H, W, 3) uint8 RGB, not a {type(inputs).__name__}")


def _path(text: str | Path) -> Path:
    if not str(text):
        raise UsageError("an empty text names no image")
    return Path(text).expanduser()


def _collect_path(path: Path) -> list[Path | np.ndarray]:
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGES)
        if not found:
            raise DataError(f"no images in this folder ({', '.join(IMAGES)})", path)
        return list(found)
    if path.is_file() and path.suffix.lower() == ".txt":
        return _read_list(path)
    if not path.exists() and glob.has_magic(str(path)):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
        if not matches:
            raise DataError("no file matches this pattern", path)
        return list(matches)
    return [path]


def _read_list(path: Path) -> list[Path | np.ndarray]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as a list of images, one path per line: {error}", path) from error
    listed = [Path(line) for line in lines if line and not line.startswith("#")]
    if not listed:
        raise DataError("the list names no images", path)
    return [entry if entry.exists() else path.parent / entry for entry in listed]


def _pixels(source: Path | np.ndarray) -> np.ndarray:
    if isinstance(source, Path):
        return image.read(source)
    if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
        raise DataError(f"an image is an array (H, W, 3) uint8 RGB, this one is {source.shape} {source.dtype}")
    return source


def _names(images: Sequence[Path | np.ndarray]) -> list[str]:
    """Name the outputs after the files, each differently: a.jpg and a.png give a and a_2."""
    taken: set[str] = set()
    names = []
    for index, source in enumerate(images):
        stem = source.stem if isinstance(source, Path) else f"{index:06d}"
        name, count = stem, 1
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        taken.add(name)
        names.append(name)
    return names


def _write_labels(
    folder: Path, name: str, prediction: Prediction, outputs: Iterable[str], classes: Sequence[str]
) -> None:
    for output in outputs:
        labels = prediction[output].numpy()
        names = classes if output == "seg" else [f"class {index}" for index in range(len(labels))]
        image.write_labels(folder, name if output == "seg" else f"{name}_{output}", labels, names)


# ---------------------------------------------------------------- the model and what belongs to it


class _PlainModule(Segmentor):
    """A module that gives scores (N, K, h, w), as a segmentor."""

    def __init__(self, module: nn.Module, classes: Sequence[str] | None) -> None:
        super().__init__()
        if not classes:
            raise UsageError(f"{type(module).__name__} does not say what it predicts: give classes=[...]")
        self.module = module
        self.outputs = {"seg": OutputSpec(len(classes), len(classes))}
        self.test_cfg = {"mode": "whole"}

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images)

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        scores = self(images)
        count = self.outputs["seg"].out_channels
        if not isinstance(scores, Tensor) or scores.ndim != 4 or scores.shape[1] != count:
            given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            name = type(self.module).__name__
            raise UsageError(f"{name} gives {given}, not scores (N, {count}, h, w) of the {count} classes")
        return {"seg": scores}


def _device_of(module: nn.Module | None) -> str:
    first = next(module.parameters(), None) if module is not None else None
    return "auto" if first is None else str(first.device)


def _settle_labels(
    classes: Sequence[str] | None, palette: Sequence[Color] | None, known: LabelSpec | None, count: int
) -> LabelSpec:
    names = tuple(classes or (known.classes if known else [f"class {i}" for i in range(count)]))
    if len(names) != count:
        raise UsageError(f"the model predicts {count} classes, but {len(names)} are named: {', '.join(names[:8])}")
    colors = palette or (known.palette if known and len(known.palette) == count else ())
    return LabelSpec(names, tuple(tuple(color) for color in colors))  # type: ignore[misc]


def _labels_in(meta: Mapping[str, Any]) -> LabelSpec | None:
    classes, palette = meta.get("classes"), meta.get("palette") or ()
    if not classes:
        return None
    return LabelSpec(tuple(classes), tuple(palette) if len(palette) == len(classes) else ())


def _labels_in_config(data: Mapping[str, Any], catalog: Catalog) -> LabelSpec | None:
    """Return the labels of the config's data, without opening it; None when its package is not there."""
    spec = next((data[part] for part in ("test", "val", "train") if data.get(part)), None)
    try:
        return _labels_of(spec, catalog)
    except ComponentError as error:
        log.warning("the classes are numbered, not named: %s", error)
        return None


def _labels_of(dataset: Any, catalog: Catalog) -> LabelSpec | None:
    if isinstance(dataset, LabelSpec | None):
        return dataset
    if isinstance(dataset, Mapping) and dataset.get("classes"):
        return _labels_in(dataset)
    if isinstance(dataset, str | Mapping):
        dataset = catalog.load("datasets", dataset if isinstance(dataset, str) else str(dataset.get("type")))
    found = [getattr(dataset, name, None) for name in ("labels", "spec")]
    known = next((spec for spec in found if isinstance(spec, LabelSpec)), None)
    classes = getattr(dataset, "classes", None)
    if known is None and isinstance(classes, Sequence):
        known = LabelSpec(tuple(classes), tuple(getattr(dataset, "palette", None) or ()))
    return known
