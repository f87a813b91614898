"""The models of a server: their names, and what one computes."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkernel import Predictor
from segkernel.errors import SegKernelError, UsageError
from segkernel.interfaces.model import Output, PixelClasses, PixelMap
from segkernel.labels import Labels
from segkernel.sample import Prediction, Sample
from segplug_deploy.outputs import PixelLabels
from segplug_deploy.serve.encode import Answer

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names of models, which stand in addresses and in metrics."""

SUFFIXES = (".onnx", ".pt", ".pth", ".yaml")


def split_names(given: Sequence[str]) -> dict[str, str]:
    """Return models by name, from arguments ``MODEL`` or ``NAME=MODEL``; a ``MODEL+MODEL`` is an ensemble.

    Raises:
        UsageError: When a name is invalid, or two models have the same.
    """
    models: dict[str, str] = {}
    for text in given:
        name, equals, model = text.partition("=")
        if not equals:
            short = "-".join(_short_name(Path(part)) for part in parts_of(text))
            name, model = re.sub(r"[^A-Za-z0-9._-]+", "-", short).strip("-._") or "model", text
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name for a model: letters, digits, '.', '_' and '-', at most 100")
        if not all(parts_of(model)):
            raise UsageError(f"{text}: give a model after '=' and on both sides of '+'")
        if name in models:
            raise UsageError(f"two models are called {name!r}: name them, {name}-1={models[name]} {name}-2={model}")
        models[name] = model
    return models


def parts_of(model: str) -> list[str]:
    """Return the models of an ensemble ``MODEL+MODEL``; one for a model, whose file may have a ``+`` in its name."""
    return [model] if Path(model).exists() else model.split("+")


def _short_name(path: Path) -> str:
    """Return the name of a run, also for its checkpoints; the name of another file without its suffix."""
    if path.parent.name == "checkpoints":
        return path.absolute().parent.parent.name
    return path.stem if path.is_file() or path.suffix in SUFFIXES else path.name


class ServedModel:
    """A predictor behind the server.

    Args:
        name: Its name in addresses.
        predictor: The model; it takes RGB images, or compares two of them, and gives each pixel one class, any number
            of classes, or a value such as a depth, or finds objects.

    Raises:
        UsageError: When it takes other inputs, or has other outputs.
    """

    def __init__(self, name: str, predictor: Predictor) -> None:
        self.name, self._predictor = name, predictor
        output = self._output = predictor.model.outputs["seg"]
        self.task = _task(output)
        """That of `Labels`, ``values`` or ``objects``."""
        if not self.task:
            wanted = "of classes, or of one value, for each pixel, or of objects"
            raise UsageError(f"{name}: serve takes models {wanted}; not {output}")
        self.images = 2 if getattr(predictor.reader, "takes_pairs", False) else 1
        """Number of images that it compares, 1 for most models."""
        try:
            fits = self._fits(predictor.read(self._of_each(np.zeros((64, 64, 3), np.uint8))))
        except SegKernelError:
            fits = False
        if not fits:
            raise UsageError(f"{name}: serve takes models of RGB images; this one reads other data")

    def _of_each(self, pixels: np.ndarray) -> Any:
        """Return an image as `Predictor.read` takes it, for both of a pair."""
        return pixels if self.images == 1 else (pixels, pixels)

    def _fits(self, given: Any) -> bool:
        """Whether what was read from RGB images is what the model takes."""
        if self.images == 2:
            prepared: Any = self._predictor.prepare(given)
            given = (prepared[0] if isinstance(prepared, tuple) else prepared).image  # an ensemble has several
        return isinstance(given, np.ndarray) and given.shape[2] == self._predictor.preprocessor.mean.shape[1]

    @property
    def labels(self) -> Labels:
        """Classes and colours."""
        return self._predictor.labels

    def prepare(self, *pixels: np.ndarray) -> Sample:
        """Return an image (H, W, 3) uint8, or two, after the transforms, for `compute`; threads may call it.

        Raises:
            DataError: When a transform rejects it, or two differ in size.
        """
        return self._predictor.prepare(self._predictor.read(pixels if self.images == 2 else pixels[0]))

    def compute(self, samples: Sequence[Sample]) -> list[Answer | Exception]:
        """Return what `encode` takes for each image, or the error with which it fails."""
        try:
            found = self._predictor.predict_samples(samples)
            return [self._answer(*each) for each in zip(samples, found)]
        except Exception as error:
            if len(samples) == 1:
                return [error]
            log.debug("%s: a batch of %d failed, each is computed alone", self.name, len(samples), exc_info=True)
            return [result for sample in samples for result in self.compute([sample])]

    def _answer(self, sample: Sample, prediction: Prediction) -> Answer:
        if self.task == "objects":
            field = {name: values.numpy() for name, values in prediction["seg"].items()}
            shown = field["scores"] >= getattr(self._output, "shown_score", 0.0)
            return {**field, "shown": shown, "size": np.array(sample.original_size or sample.size)}
        dtype = np.float32 if self.task == "values" else np.uint8
        return prediction.labels.numpy().astype(dtype, copy=False)

    def warm_up(self, size: tuple[int, int] = (512, 512)) -> None:
        """Predict a grey image, since first predictions take longer; a failure is a warning."""
        try:
            self._predictor(self._of_each(np.full((*size, 3), 128, np.uint8)))
        except SegKernelError as error:  # for example a file exported for another size
            log.warning("%s: an image of %d x %d fails: %s", self.name, *size, error)

    def describe(self) -> dict[str, Any]:
        """Return name, task, number of images, classes and colours, as plain values."""
        pairs = enumerate(zip(self.labels.classes, self.labels.palette, strict=True))
        classes = [{"id": index, "name": name, "color": list(color)} for index, (name, color) in pairs]
        about: dict[str, Any] = {"name": self.name, "task": self.task, "images": self.images}
        if self.task == "objects":
            about["shown_score"] = getattr(self._output, "shown_score", 0.0)
            about["skeleton"] = [list(pair) for pair in getattr(self._output, "connections", ())]
        return {**about, "classes": [] if self.task == "values" else classes}


def _task(output: Output) -> str:
    """Return the task of an output; empty for one that no answer can hold."""
    if isinstance(output, PixelClasses | PixelLabels):
        return output.task
    if isinstance(output, PixelMap) and output.out_channels == 1:
        return "values"
    return "objects" if hasattr(output, "results") else ""


def load(given: Mapping[str, str], **options: Any) -> dict[str, ServedModel]:
    """Load models by name; ``options`` are arguments of `segkernel.Predictor`."""
    models = {name: parts_of(model) for name, model in given.items()}
    return {
        name: ServedModel(name, Predictor(parts if parts[1:] else parts[0], **options))
        for name, parts in models.items()
    }
