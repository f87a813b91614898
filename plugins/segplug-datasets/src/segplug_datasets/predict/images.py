"""Prediction of many images: read and prepared by threads, computed in batches, written by threads, in order.

for prediction in predict_images(Predictor("best.pt"), "photos/", "predictions"): ...
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.files import file_name
from segkernel.sample import Sample
from segplug_datasets.georeference import georeference
from segplug_datasets.predict.archives import Member, as_file
from segplug_datasets.predict.outputs import DEFAULT_FORMATS, Outputs, Overlays, Predicted, map_outputs
from segplug_datasets.predict.sources import Image, collect_images, is_video, output_names, pairs
from segplug_datasets.predict.stream import Behind, grouped, mapped, prefetched
from segplug_datasets.visualize import draws_itself

if TYPE_CHECKING:
    from segkernel.sample import Prediction

log = logging.getLogger(__name__)
LARGE = 2**24
"""Pixels of an image above which windows are proposed."""


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
    predictor: Any,
    inputs: Image | Iterable[Image],
    out_dir: str | Path | None = None,
    *,
    seconds: Image | Iterable[Image] | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    img_out_dir: str = "vis",
    pred_out_dir: str = "pred",
    opacity: float = 0.5,
    show: bool = False,
    wait_time: float = 0,
    probabilities: bool = False,
    batch_size: int = 1,
) -> Iterator[Prediction]:
    """Predict images in order, with a few in memory; write the requested files, at the latest when all are predicted.

    Consecutive images of equal size are predicted in batches. Convolutions may round differently in a batch than alone;
    with ``batch_size`` 1 predictions are those of ``predictor(image)``.

    Args:
        predictor: The model, a `segkernel.Predictor`.
        inputs: See `collect_images`.
        seconds: Second images, given like ``inputs``, for models that compare two images of one place; files are
            matched by name, arrays and single files by order.
        out_dir: Folder for the files; None writes nothing.
        formats: Kinds of files, see `segplug_datasets.predict.outputs.FORMATS`. Label maps are PNGs of class ids, or
            one binary PNG per class in a folder each for multilabel models; GeoTIFFs for GeoTIFFs. For volumes only
            labels are written, as volumes.
        img_out_dir: Subfolder for the overlays; empty writes none.
        pred_out_dir: Subfolder for the label maps; empty writes none.
        opacity: Opacity of the classes' colours, above 0, at most 1.
        show: Show each overlay in a window.
        wait_time: Seconds a window stays open; 0 waits for a key.
        probabilities: Also return the probabilities, ``seg_probabilities`` (K, H, W).
        batch_size: Largest number of images that are computed at once.

    Raises:
        UnusableImages: At the end, when some of several images could not be predicted.
        DataError: When a single image cannot be predicted.
        UsageError: A video, an unknown format, or ``seconds`` for a model of single images.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size must be 1 or more, not {batch_size}")
    folder = Path(out_dir) if out_dir is not None else Path()
    kinds = formats if out_dir is not None else ()
    outputs = Outputs(folder, predictor, kinds, opacity, {"overlays": img_out_dir, "labels": pred_out_dir})
    sources: list[Any] = collect_images(inputs)
    if video := next(filter(is_video, sources), None):
        raise UsageError(f"{video}: is a video; predict_video predicts it")
    names = output_names(sources)
    if seconds is not None and not getattr(predictor.reader, "takes_pairs", False):
        raise UsageError("the model takes single images; second images are for models that compare two")
    sources = sources if seconds is None else pairs(sources, collect_images(seconds))
    items = [_Item(index, *entry) for index, entry in enumerate(zip(names, sources))]
    output = predictor.model.outputs["seg"]
    drawn = show and ("seg" in map_outputs(predictor) or draws_itself(output))
    window = Overlays(folder, predictor.labels, (), opacity, output) if drawn else None
    errors: list[DataError] = []
    warned = False
    kept = probabilities or outputs.need_probabilities
    with ExitStack() as stack:
        stack.callback(outputs.close)
        write = stack.enter_context(Behind())
        loaded = mapped(lambda item: _loaded(predictor, item), prefetched(map(_fetched, items)), size=_nbytes)
        for group in grouped(stack.enter_context(closing(loaded)), _shape, batch_size):
            warned = warned or _warn_of_memory(predictor, group[0])
            for item, prediction in _predicted(predictor, group, kept, errors):
                if item.slices:
                    _write_volume(folder, outputs, predictor, item, prediction)
                else:
                    entry = item.entry(prediction)
                    for job in outputs.jobs(entry):
                        write(job)
                    if window:
                        window.draw(entry, write=False, show=True, wait_time=wait_time)
                yield prediction
    if errors:
        raise errors[0] if len(items) == 1 else UnusableImages(errors)


@dataclass
class _Item:
    """One input on its way: ``source`` as given, ``data`` the bytes of archive members, then samples or an error."""

    index: int
    name: str
    source: Any
    data: list[bytes] = field(default_factory=list)
    samples: list[Any] = field(default_factory=list)
    slices: bool = False
    tags: list[Any] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    error: DataError | None = None

    @property
    def parts(self) -> tuple[Any, ...]:
        """The source, or both sources of a pair."""
        return self.source if isinstance(self.source, tuple) else (self.source,)

    @property
    def path(self) -> Path | None:
        """The first file; None for an array."""
        return None if isinstance(self.parts[0], np.ndarray) else Path(str(self.parts[0]))

    def entry(self, prediction: Prediction) -> Predicted:
        """Return what output files need."""
        file = self.path.name if self.path else ""
        return Predicted(self.index, self.name, self.pixels, prediction, self.tags, file)


def _fetched(item: _Item) -> _Item:
    """Read archive members: in one thread, in order, as a compressed tar can only be read forwards."""
    try:
        item.data = [part.read() for part in item.parts if isinstance(part, Member)]
    except DataError as error:
        item.error = error
    return item


def _loaded(predictor: Any, item: _Item) -> _Item:
    """Read and prepare an input."""
    if item.error:
        return item
    data = iter(item.data)
    try:
        with ExitStack() as stack:
            places = [stack.enter_context(as_file(next(data), p)) if isinstance(p, Member) else p for p in item.parts]
            given = predictor.read(tuple(places) if len(places) > 1 else places[0])
            item.tags = [] if isinstance(places[0], np.ndarray) else georeference(places[0])
            item.slices = isinstance(given, list)
            if item.slices and item.data:
                raise DataError("volumes are read from files: unpack the archive", str(item.parts[0]))
        slices = given if item.slices else [given]
        item.pixels = slices[0].image if isinstance(slices[0], Sample) else slices[0]
        item.samples = [predictor.prepare(pixels, name=item.name, path=item.path) for pixels in slices]
    except DataError as error:
        item.error = error
    item.data = []
    return item


def _warn_of_memory(predictor: Any, item: _Item) -> bool:
    """Propose windows for a large image that is predicted as a whole; return whether it was one."""
    sizes = [sample.size for sample in item.samples if isinstance(sample, Sample)]
    mode = (getattr(predictor, "test_cfg", None) or {}).get("mode", "whole")
    if not mode.startswith("whole") or all(height * width <= LARGE for height, width in sizes):
        return False
    windows = "'evaluate.test_cfg={mode: slide, crop_size: [1024, 1024], stride: [768, 768], blend: gaussian}'"
    size = " x ".join(map(str, sizes[0]))
    log.warning("%s: %s pixels are predicted as a whole; windows take less memory: %s", item.name, size, windows)
    return True


def _nbytes(item: _Item) -> int:
    samples = [each for entry in item.samples for each in (entry if isinstance(entry, tuple) else (entry,))]
    return int(item.pixels.nbytes + sum(sample.image.nbytes for sample in samples))


def _shape(item: _Item) -> Any:
    """Return what images of a batch have in common; volumes are batches of their own."""
    if item.error or item.slices:
        return item.index
    samples = item.samples[0] if isinstance(item.samples[0], tuple) else (item.samples[0],)
    return [(sample.image.shape, sample.image.dtype, sample.original_size) for sample in samples]


def _predicted(
    predictor: Any, group: list[_Item], probabilities: bool, errors: list[DataError]
) -> Iterator[tuple[_Item, Prediction]]:
    """Yield the predictions of a batch; of its images one by one when it fails as a whole."""
    first = group[0]
    if first.error:
        errors.append(first.error)
        return
    try:
        if first.slices:
            found = [predictor.predict_samples([each], probabilities=probabilities)[0] for each in first.samples]
            yield first, _stacked(found)
            return
        batch = predictor.predict_samples([item.samples[0] for item in group], probabilities=probabilities)
    except DataError as error:
        if len(group) == 1:
            errors.append(error)
        for item in group if len(group) > 1 else ():
            yield from _predicted(predictor, [item], probabilities, errors)
        return
    yield from zip(group, batch)


def _stacked(slices: list[Prediction]) -> Prediction:
    """Return the prediction of a volume, whose fields have the slices as first axis."""
    from torch import stack

    return type(slices[0])({key: stack([each[key] for each in slices]) for key in slices[0].fields}, slices[0].meta)


def _write_volume(folder: Path, outputs: Outputs, predictor: Any, item: _Item, prediction: Prediction) -> None:
    if labels := outputs.files.get("labels"):
        for output in labels.maps:
            name = item.name if output == "seg" else f"{item.name}_{file_name(output)}"
            predictor.reader.write(labels.folder / name, list(prediction[output].numpy()), item.path)
