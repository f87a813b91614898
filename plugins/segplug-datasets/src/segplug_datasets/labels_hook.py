"""`LabelsHook`: checks the labels of a run before and during training."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from segkernel.annotations import NonNegativeInt
from segkernel.errors import DataError, SegKernelError
from segkernel.hookspecs import Priority, hookimpl
from segkernel.labels import IGNORE

if TYPE_CHECKING:
    from segkernel.hookspecs import Run
    from segkernel.interfaces.data import Dataset
    from segkernel.sample import Batch, Targets

log = logging.getLogger(__name__)

_REGION_LOSSES = "Dice", "Tversky", "Jaccard", "Lovasz"  # in names of losses: a rare class counts as much as another
_SECONDS = 60  # limit for inspecting a suspicious set


@dataclass
class _Seen:
    """Label statistics of some samples of a set.

    Args:
        pixels: Number of pixels of each class.
        ignored: Number of ignored pixels.
        empty: Names of samples in which all pixels are ignored.
        samples: Number of samples inspected.
    """

    pixels: np.ndarray
    ignored: int = 0
    empty: list[str] = field(default_factory=list)
    samples: int = 0

    def add(self, labels: np.ndarray, name: str) -> None:
        counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
        self.pixels += counts[: len(self.pixels)]
        self.ignored += int(labels.size - counts[: len(self.pixels)].sum())
        self.samples += 1
        if not counts[: len(self.pixels)].any():
            self.empty.append(name)

    @property
    def is_uniform(self) -> bool:
        """Whether there is at most one class besides ignored pixels, so that nothing can be learnt or measured."""
        return self.samples > 0 and int(np.count_nonzero(self.pixels)) < 2 <= len(self.pixels)


class LabelsHook:
    """Warn about suspicious labels, and stop a run that cannot succeed before time is spent on it.

    Before training, evenly spaced samples of the training and validation sets are inspected, or all samples if these
    contain a single class: a set with a single class, besides ignored pixels, ends the run; mostly ignored pixels and
    images without a labelled pixel are reported. After an epoch, classes missing in all training labels are named;
    after a validation, those without ground truth, which no metric covers. A validation with a single class ends the
    run, as it cannot rank models. From half of the training on, classes with an IoU of 0 are named. Every data set of
    this package adds this hook.

    Args:
        samples: Number of samples of each set to inspect before training; 0 inspects none and stops nothing.
    """

    priority = Priority.VERY_HIGH

    def __init__(self, samples: NonNegativeInt = 32) -> None:
        self.samples = samples
        self._reset()

    def _reset(self) -> None:
        self._train: Any = None  # pixel counts, on the device: reading them would synchronise
        self._counts_training = True
        self._truth: _Seen | None = None
        self._truth_is_known = False

    @hookimpl
    def before_train(self, run: Run) -> None:
        """Inspect the sets.

        Raises:
            DataError: When a set has at most a single class besides ignored pixels.
        """
        self._reset()
        self._counts_training = run.iteration == 0  # a resumed run does not know earlier labels
        for name, loader in (("train", run.train_set), ("val", run.val_set)):
            if loader is not None and self.samples:
                self._inspect(run, name, loader.dataset)

    @hookimpl
    def after_train_iteration(self, run: Run, batches: list[Batch]) -> None:
        import torch

        for batch in batches if self._counts_training else ():
            labels = batch.targets.get("seg")
            if labels is None or not _predicts_pixels(run):
                continue
            if not labels.is_floating_point() and run.labels.task != "multilabel":
                counts = torch.histc(labels.float(), IGNORE + 1, 0, IGNORE)
                self._train = counts if self._train is None else self._train + counts

    @hookimpl
    def after_train_epoch(self, run: Run) -> None:
        self._report_training(run)

    @hookimpl
    def after_train(self, run: Run) -> None:
        self._report_training(run)

    @hookimpl
    def before_validation(self, run: Run) -> None:
        """Count the ground truth of the first complete validation; it is the same in all."""
        self._truth = None if self._truth_is_known else _Seen(np.zeros(len(run.labels.classes), np.int64))

    @hookimpl
    def after_prediction(self, run: Run, target: Targets) -> None:
        labels = target.get("seg") if run.mode == "val" and self._truth is not None else None
        if labels is not None and _are_classes(array := np.asarray(labels.cpu()), run):
            self._truth.add(array, "")  # type: ignore[union-attr]

    @hookimpl
    def after_validation(self, run: Run, metrics: dict[str, float]) -> None:
        """Check the counted ground truth, and from half of the training on name the classes that are not found.

        Raises:
            DataError: When it has at most a single class besides ignored pixels.
        """
        if self._truth is not None and self._truth.samples:
            # With several ranks, others may have further classes.
            if self.samples and self._truth.is_uniform and run.mode == "val" and run.engine.world_size == 1:
                raise _stopped(run, "val", self._truth)
            where = " on this rank" if run.engine.world_size > 1 else ""
            _report_missing(run, "val", self._truth.pixels, f"have no ground truth{where}, so no metric covers them")
        self._truth, self._truth_is_known = None, True
        if run.is_main and 2 * run.iteration >= run.max_iterations:
            _report_not_found(run.labels.classes, metrics, run.config)

    def _inspect(self, run: Run, name: str, dataset: Dataset) -> None:
        count = len(dataset)
        first = dict.fromkeys(np.linspace(0, count - 1, min(self.samples, count)).astype(int).tolist())
        seen, started = _Seen(np.zeros(len(run.labels.classes), np.int64)), time.monotonic()
        for index in itertools.chain(first, (index for index in range(count) if index not in first)):
            if seen.samples >= len(first) and not (seen.is_uniform and time.monotonic() - started < _SECONDS):
                break
            try:
                sample = dataset[index]
            except DataError:  # reported when training loads it
                continue
            labels = sample.get("seg")
            if labels is None or not _are_classes(labels.array, run):
                return
            seen.add(labels.array, str(sample.meta.get("name", index)))
        if seen.is_uniform and seen.samples == count:
            raise _stopped(run, name, seen)
        self._describe(name, seen)

    def _describe(self, name: str, seen: _Seen) -> None:
        inspected = f"of {seen.samples} samples of {name} inspected"
        share = seen.ignored / max(seen.ignored + int(seen.pixels.sum()), 1)
        if share > 0.5:
            log.warning(
                "%d %% of the pixels %s are ignored; seg-kernel data check shows why", round(100 * share), inspected
            )
        if seen.empty:
            names = ", ".join(seen.empty[:5]) + (", ..." if len(seen.empty) > 5 else "")
            log.warning("%d %s have only ignored pixels: %s", len(seen.empty), inspected, names)

    def _report_training(self, run: Run) -> None:
        if self._counts_training and self._train is not None:
            pixels = self._train[: len(run.labels.classes)].cpu().numpy()
            _report_missing(run, "train", pixels, "missing in all training labels so far; cannot be learnt")
        self._counts_training, self._train = False, None


def _report_missing(run: Run, part: str, pixels: np.ndarray, what: str) -> None:
    names = [name for name, count in zip(run.labels.classes, pixels, strict=True) if not count]
    if names and run.is_main:
        log.warning("%s: %s %s", part, ", ".join(names[:12]) + ", ..." * (len(names) > 12), what)


def _report_not_found(classes: Sequence[str], metrics: Mapping[str, float], config: Mapping[str, Any]) -> None:
    """Warn of classes whose IoU is 0; that of a class without ground truth or prediction is NaN."""
    if names := [name for name in classes if metrics.get(f"IoU.{name}") == 0]:
        log.warning(
            "val: %s not found on any pixel (IoU 0). For a class that is rare: %s\n"
            "    help: seg-kernel explain not-found-on-any-pixel (docs: troubleshooting/not-found-on-any-pixel/)",
            ", ".join(names[:12]) + ", ..." * (len(names) > 12),
            "; ".join(_remedies(config)),
        )


def _remedies(config: Mapping[str, Any]) -> list[str]:
    """Return what helps a model to learn a rare class and is not in a config yet."""
    given = list(_entries(config.get("model")))
    region = any(key == "type" and any(name in str(value) for name in _REGION_LOSSES) for key, value in given)
    weighted = any(key == "class_weight" and value is not None for key, value in given)
    sampled = (config.get("data") or {}).get("sampler")
    return [
        "more iterations",
        *([] if region else ["loss_decode: [{type: CrossEntropyLoss}, {type: SoftDiceLoss}]"]),
        *([] if weighted else ["class_weight: auto"]),
        *([] if sampled else ["data.sampler: {type: BalancedSampler}, for an IndexedDataset"]),
        "larger images",
    ]


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a config's section, of all depths."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key, inner
            yield from _entries(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _entries(inner)


def _are_classes(labels: np.ndarray, run: Run) -> bool:
    """Whether labels are class ids that the model predicts, not depths or multilabel masks."""
    return labels.ndim == 2 and labels.dtype.kind in "ui" and run.labels.task != "multilabel" and _predicts_pixels(run)


def _predicts_pixels(run: Run) -> bool:
    """Whether the main output of the model is a map; others, such as instances, do not learn from label maps."""
    from segkernel.interfaces.output import PixelMap

    output = getattr(getattr(run, "model", None), "outputs", {}).get("seg")
    return output is None or isinstance(output, PixelMap)


def _stopped(run: Run, name: str, seen: _Seen) -> DataError:
    """Return the error for a set with a single class, with the findings of the mask doctor."""
    classes = [label for label, count in zip(run.labels.classes, seen.pixels, strict=True) if count]
    ignored = " and ignored pixels" if seen.ignored else ""
    found = f"only {classes[0]}{ignored}" if classes else "only ignored pixels"
    message = f"the labels of data.{name} contain {found}, in all {seen.samples} samples: nothing to learn or measure"
    hint = "if that is intended: hooks+={type: LabelsHook, samples: 0}"
    return DataError("\n    ".join([message, *_advice(run, name).splitlines(), hint]))


def _advice(run: Run, name: str) -> str:
    from segkernel.config import load_config
    from segplug_datasets.doctor.inspect import inspect
    from segplug_datasets.doctor.parts import parts_of_config
    from segplug_datasets.doctor.report import check, text_of

    try:
        parts = [part for part in parts_of_config(load_config(run.config)) if part.set == name] if run.config else []
        findings = check(inspect(parts, workers=0)).findings
    except SegKernelError:
        findings = []
    errors = [text_of(finding) for finding in findings if finding.severity == "error"]
    return "\n".join(errors) or "seg-kernel data check CONFIG lists the values in the files"
