"""The images that an exported file is verified on: those given, or the first of the config's data, or noise."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkernel import build, image
from segkernel.config import Config
from segkernel.errors import DataError, UntrustedError, UsageError
from segkernel.interfaces.model import Exporter
from segkernel.interfaces.output import PixelMap
from segkernel.labels import Color
from segkernel.loading import ambient_of, catalog_of
from segkernel.predictor import Predictor
from segkernel.sample import Sample
from segplug_deploy.certificate import Evidence, Predict, Size, counted

log = logging.getLogger(__name__)
NOISE = "noise"
"""What a file is verified on where the data cannot be read."""


def evidence_for(
    predictor: Predictor,
    exporter: Exporter,
    given: Sequence[Any] = (),
    count: int = 8,
    calibration: int = 0,
) -> Evidence:
    """Return the images to verify a file on; the first is its example.

    Args:
        predictor: The model.
        exporter: Opens the file.
        given: Images in place of the data's; they have no labels.
        count: Number of images of the data to take.
        calibration: Number of images of the validation set for an exporter that calibrates.

    Raises:
        UsageError: When there are no images that can be read to calibrate with.
    """
    config, output = predictor.config, predictor.model.outputs["seg"]
    what, samples = _named(given), list(given)
    if not samples:
        what, samples = _of_data(config, ("test", "val", "train"), count)
    labels_only = getattr(getattr(exporter, "interface", None), "labels", False)
    calibrating = samples if given else []
    if getattr(exporter, "precision", "") == "int8" and not given:
        what_calibrates, calibrating = _of_data(config, ("val", "train", "test"), calibration)
        if what_calibrates == NOISE:  # the ranges of noise are not those of images
            raise UsageError("int8 is calibrated on images, but the data cannot be read: name some by --image FILE")

    def open_file(path: Path) -> Predict:
        # The config in the file was just written by this process.
        return _labels_by(Predictor(path, exporter=exporter, device="cpu", trust=True), labels_only)

    return Evidence(
        what=what,
        sources=samples,
        truths=[_truth(sample) if isinstance(output, PixelMap) else None for sample in samples],
        example=predictor.example,
        predict=_labels_by(predictor, labels_only),
        predictor=open_file,
        calibration=calibrating,
        classes=predictor.classes,
    )


def _named(given: Sequence[Any]) -> str:
    names = [Path(image).name if isinstance(image, str | Path) else "an image" for image in given]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _of_data(config: Config | None, parts: Sequence[str], count: int) -> tuple[str, list[Any]]:
    """Return a description and the first images of the config's data, or noise of the crop size."""
    try:
        part, dataset = _dataset(config, parts)
        samples = [dataset[index] for index in range(min(count, len(dataset)))]
        return f"{counted(len(samples), 'image')} of data.{part}", samples
    except (DataError, UntrustedError) as error:
        height, width = ((config and config.get("data")) or {}).get("crop_size") or (512, 512)
        why = str(error).partition("\n")[0]
        log.warning("%s\n    verifying on noise of %s x %s; --image takes an image instead", why, height, width)
        return NOISE, [np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)]


def _dataset(config: Config | None, parts: Sequence[str]) -> tuple[str, Any]:
    data: Mapping[str, Any] = (config.get("data") if config else None) or {}
    part = next((part for part in parts if data.get(part)), None)
    if config is None or part is None:
        raise DataError("the config has no data")
    spec, catalog, ambient = data[part], catalog_of(config), ambient_of(config)
    return part, build("datasets", spec, path=f"data.{part}", catalog=catalog, ambient=ambient)


def _truth(sample: Any) -> np.ndarray | None:
    """Return the labels (H, W) of a sample; None when it has none, or several for a pixel."""
    labels = getattr(sample.get("seg"), "array", None) if isinstance(sample, Sample) else None
    return labels if labels is not None and labels.ndim == 2 else None


def _labels_by(predictor: Predictor, whole: bool) -> Predict:
    """Return a function that predicts labels, of whole images where the file can do no other."""

    def predict(source: Any, size: Size | None) -> Any:
        before, predictor.test_cfg = predictor.test_cfg, {"mode": "whole"} if whole else predictor.test_cfg
        try:
            sample = predictor.prepare(_first(predictor.read(source)))
            if size:
                sample = Sample(image=image.opencv().resize(sample.image, size[::-1]), meta=sample.meta)
            found: Any = predictor.predict_samples([sample])[0].labels
            return found if isinstance(found, Mapping) else found.numpy()
        finally:
            predictor.test_cfg = before

    return predict


def _first(pixels: Any) -> Any:
    return pixels[0] if isinstance(pixels, list) else pixels  # the slices of a volume


def draw_pairs(
    evidence: Evidence,
    path: Path,
    folder: Path,
    palette: Sequence[Color],
    opacity: float,
    size: Size | None = None,
    output: Any = None,
) -> None:
    """Write a picture of each image of the evidence: the model's labels or objects beside those of the file.

    ``size`` is the (height, width) to which images are resized, for a file of fixed size; ``output`` draws objects.

    Raises:
        UsageError: When the images are not RGB, or the labels not one class for each pixel.
    """
    if evidence.predict is None or evidence.predictor is None:
        return
    both, colors = (evidence.predict, evidence.predictor(path)), np.array(palette, np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for index, source in enumerate(evidence.sources):
        pixels = image.read(source) if isinstance(source, str | Path) else getattr(source, "image", source)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise UsageError(f"show_dir draws RGB images of 8 bits, not {pixels.shape} {pixels.dtype}")
        pixels = image.opencv().resize(pixels, size[::-1]) if size else pixels
        found = [predict(source, size) for predict in both]
        if hasattr(output, "draw"):
            panels = [output.draw(pixels, field, evidence.classes, palette, opacity) for field in found]
        else:
            panels = [_blended(pixels, colors[labels], opacity) for labels in found]
        image.opencv().imwrite(str(folder / f"{index}.png"), np.hstack(panels)[:, :, ::-1])


def _blended(pixels: np.ndarray, colors: np.ndarray, opacity: float) -> np.ndarray:
    return (pixels * (1 - opacity) + colors * opacity).round().astype(np.uint8)
