"""Inference in three lines: a model by name, config, checkpoint or object; an image, or several.

predictor = Predictor("work_dirs/quickstart/best.pt")
prediction = predictor("street.jpg")
prediction.labels                       # (H, W) class ids at the image's own size
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkernel import image, rundir
from segkernel.building import build
from segkernel.catalog import Catalog
from segkernel.config.sections import TTA, Sections, TestConfig
from segkernel.data import apply_eval_transforms
from segkernel.engine import LocalEngine
from segkernel.errors import ComponentError, DataError, UntrustedError, UsageError, warn_renamed
from segkernel.inference import Predict, Preprocessor, predict_batch
from segkernel.interfaces.data import Dataset, Transform
from segkernel.labels import Color, Labels
from segkernel.loading import ExporterChoice, catalog_of, labels_in, labels_of, load_model
from segkernel.plain import PlainModule
from segkernel.sample import Batch, Prediction, Sample, collate
from segkernel.signature import signature

log = logging.getLogger(__name__)

Image = str | Path | np.ndarray | Tensor | Sample
"""A file; an array or tensor; or a sample of the config's data set. A PIL image, too; see `Predictor.read`."""


class Predictor:
    """Predicts images of any size with one model, or with the mean of several.

    Args:
        model: A packaged or local config name, a config file, a run directory, a checkpoint that holds its config, an
            exported file, or a built module (it is put into evaluation mode). A list of these, or of predictors, is
            segplug-datasets' `Ensemble`; the other arguments are for all of them.
        weights: A checkpoint for the model, or a run directory; it must fit completely.
        device: Any torch device, or ``auto``. None is ``auto``, or where a built module already is. An exported file
            runs there, too, or raises; with ``auto`` its runtime chooses.
        classes: Names; they override the data set's, which override those in the checkpoint.
        palette: One RGB colour per class; same precedence as ``classes``.
        dataset: Source of the classes: a data set, or a data set's class, name or config.
        transforms: Applied to each image; None takes the config's ``data.eval_transforms``.
        preprocess: Arguments of `Preprocessor`; None takes the config's, or the checkpoint's.
        test_cfg: Whole or sliding windows; None takes the config's, or the model's.
        tta: Test-time augmentation.
        overrides: ``key=value`` strings for the config, also of a checkpoint.
        exporter: The exporter that loads an exported file: a name, or ``{type: NAME, argument: value}``; None takes
            the one for the file's suffix.
        trust: Whether a config inside a checkpoint or an exported file may name import paths and files to read.
            Without it the file is data: it can only use what installed plugins offer.
        random_weights: Whether a config without weights is accepted: its model is randomly initialised.
        optimize: Whether installed plugins make the model faster, with results that are equal up to rounding; see
            `segplug_deploy.optimize_for_inference`. None does unless the model is a built module: later changes of
            its weights would have no effect.

    Raises:
        ConfigError, CheckpointError, ExportError, UsageError: When the parts are missing or do not fit together.
        UntrustedError: When the file's config names code or other files.
    """

    def __new__(cls, model: Any = None, *arguments: Any, **options: Any) -> Any:
        """Return a predictor; an ensemble for a list of models."""
        several = cls is Predictor and isinstance(model, list | tuple)
        return super().__new__(Catalog.discover().load("predictors", "Ensemble") if several else cls)

    def __init__(
        self,
        model: str | Path | nn.Module | Sequence[Any],
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
        classes: Sequence[str] | None = None,
        palette: Sequence[Color] | None = None,
        dataset: Dataset | type | str | Mapping[str, Any] | Labels | None = None,
        *,
        transforms: Sequence[Transform] | None = None,
        preprocess: Mapping[str, Any] | None = None,
        test_cfg: TestConfig | None = None,
        tta: TTA | None = None,
        overrides: Sequence[str] = (),
        exporter: ExporterChoice = None,
        trust: bool = False,
        random_weights: bool = False,
        optimize: bool | None = None,
    ) -> None:
        loaded = load_model(model, weights, overrides, exporter=exporter, device=str(device or "auto"), trust=trust)  # type: ignore[arg-type]
        built, meta, config = loaded.model, loaded.meta, loaded.config
        self.config = config
        if loaded.random and not random_weights:
            hint = "give weights=FILE (--weights FILE), or ask for it: random_weights=True (--random-weights)"
            raise UsageError(f"{config and config.name}: without weights its predictions are random\n    {hint}")
        data = (config.get("data") if config else None) or {}
        catalog = catalog_of(config)
        known = labels_of(dataset, Catalog.discover()) or labels_in(meta) or _labels_in_config(data, catalog)
        names = classes or (known.classes if known else ())
        if not (hasattr(built, "outputs") or names):
            raise UsageError(f"the classes of {type(built).__name__} are unknown: pass classes=[...]")
        self.model: Any = built if hasattr(built, "outputs") else PlainModule(built, len(names))
        output = self.model.outputs["seg"]
        # An output without classes, such as depth, gets one name, as labels cannot be empty.
        self.labels = _settle_labels(classes, palette, known if output.classes else None, output.classes or 1)
        self.classes, self.palette = self.labels.classes, self.labels.palette
        used = {"data": ["preprocess"] + ["eval_transforms"] * (transforms is None), "evaluate": ["test_cfg"]}
        given = {name: _entries(config.get(name) or {}, keys) for name, keys in used.items()} if config else {}
        sections = build(Sections, given, catalog=catalog)
        self.transforms = sections.data.eval_transforms if transforms is None else transforms
        preprocessing = preprocess or sections.data.preprocess or meta.get("preprocess") or {}
        self.preprocessor = build(Preprocessor, preprocessing, path="preprocess", catalog=catalog)
        self.test_cfg = test_cfg or sections.evaluate.test_cfg or getattr(self.model, "test_cfg", None)
        self.tta = tta
        self.reader: Any = _reader_in(data, catalog)
        self._engine = LocalEngine(str(device or _device_of(built, isinstance(model, nn.Module))))
        wanted = not isinstance(model, nn.Module) if optimize is None else optimize
        faster: Any = self.model.eval()
        for _, optimized in catalog.load_all("optimizations") if wanted else ():
            faster = optimized(faster, self.device)
        self._engine.prepare_model(faster, self.preprocessor.eval())

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._engine.device

    def __call__(
        self, inputs: Image | Iterable[Any], *, probabilities: bool = False, scores: bool | None = None
    ) -> Any:
        """Predict one image, or several one after the other.

        Args:
            inputs: An argument of `read`, or an iterable of these; a tuple is one where the model compares two images.
                Folders and patterns are for ``seg-kernel predict`` and `segplug_datasets.predict_images`.
            probabilities: Also keep those of each pixel, ``seg_probabilities`` (K, H, W).
            scores: The name of ``probabilities`` before 0.3.

        Returns:
            A `Prediction` for one image, a list with one for each slice of a volume, or a list with one entry for each
            of several inputs, in order; on the CPU.

        Raises:
            DataError: When an image cannot be read or predicted.
            UsageError: When an input is not an image.
        """
        if scores is not None:
            warn_renamed("the argument scores", "probabilities")
            probabilities = scores
        if isinstance(inputs, Image | bytes | Mapping) or not isinstance(inputs, Iterable) or self._is_pair(inputs):
            return self._predict_one(inputs, probabilities)
        return [self._predict_one(source, probabilities) for source in inputs]

    def predict(
        self, pixels: np.ndarray | Sample, *, name: str = "image", path: Any = None, probabilities: bool = False
    ) -> Prediction:
        """Predict the result of `read`; ``name`` and ``path`` are for the prediction's ``meta`` and for errors."""
        return self.predict_samples([self.prepare(pixels, name=name, path=path)], probabilities=probabilities)[0]

    def predict_samples(self, samples: Sequence[Sample], *, probabilities: bool = False) -> list[Prediction]:
        """Predict results of `prepare` as one batch, on the CPU in the same order; smaller ones are padded.

        Raises:
            DataError: When they cannot be one batch, or the model fails on it.
        """
        batch = collate(samples).to(self.device)
        views: dict[str, Any] = {"test_cfg": self.test_cfg, "tta": self.tta, "probabilities": probabilities}
        try:
            predict, images = self._preprocessed(batch)
            found = predict_batch(predict, batch, images, outputs=self._engine.segmentor.outputs, **views)
        except RuntimeError as error:  # too small for the model's strides, or too large for the memory
            size, meta = "x".join(map(str, batch.original_sizes[0])), batch.meta[0]
            reason = f"the model failed on an image of {size} pixels: {str(error).splitlines()[0]}"
            raise DataError(reason, meta["path"] or meta["name"]) from error
        return [prediction.cpu() for prediction in found]

    def _preprocessed(self, batch: Batch) -> tuple[Predict, Tensor]:
        """Return a function that predicts images, and the images.

        It normalises windows if it can: a whole image in float32 takes four times the memory.
        """
        slides = (self.test_cfg or {"mode": "whole"}).get("mode", "whole").startswith("slide") and self.tta is None
        if not slides or len(batch) > 1 or any(batch.device_steps) or self.preprocessor.padding[False]:
            return self._engine.predict, self.preprocessor(batch)[0]
        return lambda crops: self._engine.predict(self.preprocessor(Batch(crops))[0]), batch.images

    def prepare(self, pixels: np.ndarray | Sample, *, name: str = "image", path: Any = None) -> Sample:
        """Return the result of `read` after the transforms, for `predict_samples`; threads may call it."""
        given = pixels if isinstance(pixels, Sample) else Sample(image=pixels)
        if given.image.ndim != 3 or given.image.dtype.kind not in "uif" or not given.image.size:
            raise DataError(f"an image is an array (H, W, C) of numbers, not {given.image.shape} {given.image.dtype}")
        if given.image.dtype.kind == "f" and not np.isfinite(given.image).all():
            log.warning("%s: some values are not finite, so predictions near them are meaningless", path or name)
        meta = {"path": path and str(path), "name": name, "image": path or pixels, "labels": self.labels, **given.meta}
        sample = Sample(dict(given.fields), meta, given.image, original_size=given.size)
        return apply_eval_transforms(self.transforms, sample, np.random.default_rng(0)).carry_out()

    def read(self, source: Any) -> Any:
        """Read an image as the config's data set does, by the ``image_reader`` of its class.

        Args:
            source: Without such a data set, an image file, or an image in memory as `segkernel.image.to_pixels` reads
                it: PIL's, or an array or tensor (H, W, C), (C, H, W) or grey (H, W), uint8 (0 to 255) or float (0 to
                1). With one, a file that it reads, or an array or tensor of its content, used as it is. A tuple of two
                of these for a data set of image pairs.

        Returns:
            (H, W, C), or a sample of a pair; for a volume a list with one for each slice.

        Raises:
            DataError: When it cannot be read.
            UsageError: When it is neither a path nor an image, or has another shape or range of values.
        """
        given = tuple(map(self._source, source)) if self._is_pair(source) else self._source(source)
        return given if isinstance(given, Sample) else self.reader(given)

    def _source(self, source: Any) -> Any:
        """Return the reader's argument, a path or an array, or a sample."""
        if not (hasattr(source, "__array_interface__") or hasattr(source, "__array__")):
            return source if isinstance(source, Sample) else _path(source)
        own = self.reader is not _read_rgb  # arrays of its data set's values
        return image.to_array(source) if own else image.to_pixels(source, self.preprocessor.mean.shape[1])

    def _is_pair(self, source: Any) -> bool:
        return isinstance(source, tuple) and getattr(self.reader, "takes_pairs", False)

    def example(self, source: Any) -> Tensor:
        """Return an image as the model's input: (1, C, H, W) float32, transformed and normalised, on its device."""
        pixels = self.read(source)
        sample = self.prepare(pixels[0] if isinstance(pixels, list) else pixels, name="example")
        return self.preprocessor(collate([sample]).to(self.device))[0]

    def metadata(self) -> dict[str, Any]:
        """Return the metadata for an exported file, as plain values."""
        return rundir.model_metadata(self.labels, self.config.data if self.config else {}, self.preprocessor)

    def _predict_one(self, source: Any, probabilities: bool) -> Any:
        pixels, first = self.read(source), source[0] if self._is_pair(source) else source
        path = _path(first) if isinstance(first, str | Path) else None
        name = path.stem if path else "image"
        if isinstance(pixels, list):
            return [self.predict(part, name=name, path=path, probabilities=probabilities) for part in pixels]
        return self.predict(pixels, name=name, path=path, probabilities=probabilities)


def _path(source: object) -> Path:
    if not isinstance(source, str | Path) or not str(source):
        given = "an empty string" if source == "" else type(source).__name__
        raise UsageError(f"an image is a path, a PIL image, an array or a tensor, not {given}")
    return Path(source).expanduser()


def _read_rgb(source: Path | np.ndarray) -> np.ndarray:
    return source if isinstance(source, np.ndarray) else image.read(source)


def _reader_in(data: Mapping[str, Any], catalog: Catalog) -> Callable[[Any], Any]:
    """Return the image reader of the config's data set, which is not built; one for RGB if it is unknown."""
    spec = _dataset_in(data)
    try:
        kind = catalog.load("datasets", str(spec.get("type"))) if isinstance(spec, Mapping) else None
    except (ComponentError, UntrustedError):
        kind = None
    maker = getattr(kind, "image_reader", None)
    if maker is None:
        return _read_rgb
    arguments = {name: value for name, value in spec.items() if name in signature(maker)}
    return build(maker, arguments, path="data", catalog=catalog)


def _dataset_in(data: Mapping[str, Any]) -> Any:
    """Return the config's data set, a spec or an object; None when there is none."""
    return next((data[part] for part in ("test", "val", "train") if data.get(part)), None)


# ---------------------------------------------------------------- the model and its labels


def _entries(section: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return the entries of a section under these keys, without None."""
    return {key: section[key] for key in keys if section.get(key) is not None}


def _device_of(model: Any, given: bool) -> str:
    """Return the device of an exported file or of a given module; ``auto`` for other models."""
    first = next(model.parameters(), None) if given else None
    return str(getattr(model, "device", "auto" if first is None else first.device))


def _settle_labels(
    classes: Sequence[str] | None, palette: Sequence[Color] | None, known: Labels | None, count: int
) -> Labels:
    names = tuple(classes or (known.classes if known else [f"class {i}" for i in range(count)]))
    if len(names) != count:
        raise UsageError(f"the model predicts {count} classes, but {len(names)} are named: {', '.join(names[:8])}")
    colors = palette or (known.palette if known and len(known.palette) == count else ())
    return Labels(names, tuple(tuple(color) for color in colors))  # type: ignore[misc]


def _labels_in_config(data: Mapping[str, Any], catalog: Catalog) -> Labels | None:
    """Return the labels of the config's data, without building it; None when its package is missing."""
    try:
        return labels_of(_dataset_in(data), catalog)
    except ComponentError as error:
        log.warning("class names are unknown, so classes are numbered: %s", error)
        return None
