"""`LabelsHook`: checks the labels of a run before and during training."""

from __future__ import annotations

import itertools
import logging
import time
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

_SECONDS = 60  # for the labels of a set that looks wrong; more would be waiting for too long


@dataclass
class _Seen:
    """Label statistics of some samples of a set.

    Args:
        pixels: Number of pixels of each class.
        ignored: Pixels that do not count.
        empty: Names of samples without a pixel that counts.
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
        """Whether there is at most one class apart from ignored pixels, so that nothing can be learnt or measured."""
        return self.samples > 0 and int(np.count_nonzero(self.pixels)) < 2 <= len(self.pixels)


class LabelsHook:
    """Warn about suspicious labels, and stop a run that cannot succeed before time is spent on it.

    Before training some samples of the training and the validation set are inspected, spread evenly, and all if these
    hold a single class: a set with a single class, ignored pixels aside, ends the run; mostly ignored pixels, and
    images without a labelled pixel, are reported. After an epoch, classes that occurred in no training label are named,
    after a validation those without ground truth, which no metric covers. A validation of a single class ends the run,
    as it cannot rank models. Every data set of this package brings this hook with it.

    Args:
        samples: Number of samples of each set to inspect before training; 0 inspects none and stops nothing.
    """

    priority = Priority.VERY_HIGH

    def __init__(self, samples: NonNegativeInt = 32) -> None:
        self.samples = samples
        self._reset()

    def _reset(self) -> None:
        self._train: Any = None  # pixels of each label, on the device: reading them waits for it
        self._counts_training = True
        self._truth: _Seen | None = None
        self._truth_is_known = False

    @hookimpl
    def before_train(self, run: Run) -> None:
        """Look at the sets.

        Raises:
            DataError: A set holds at most a single class apart from ignored pixels.
        """
        self._reset()
        self._counts_training = run.iteration == 0  # what came before a resumed run is not known
        for name, loader in (("train", run.train_set), ("val", run.val_set)):
            if loader is not None and self.samples:
                self._look(run, name, loader.dataset)

    @hookimpl
    def after_train_iteration(self, run: Run, batches: list[Batch]) -> None:
        import torch

        for batch in batches if self._counts_training else ():
            labels = batch.targets.get("seg")
            if labels is not None and not labels.is_floating_point() and run.labels.task != "multilabel":
                counts = torch.histc(labels.float(), IGNORE + 1, 0, IGNORE)
                self._train = counts if self._train is None else self._train + counts

    @hookimpl
    def after_train_epoch(self, run: Run) -> None:
        self._tell_of_training(run)

    @hookimpl
    def after_train(self, run: Run) -> None:
        self._tell_of_training(run)

    @hookimpl
    def before_validation(self, run: Run) -> None:
        """Count the ground truth of the first validation that comes to its end: it is the same in all of them."""
        self._truth = None if self._truth_is_known else _Seen(np.zeros(len(run.labels.classes), np.int64))

    @hookimpl
    def after_prediction(self, run: Run, target: Targets) -> None:
        labels = target.get("seg") if run.mode == "val" and self._truth is not None else None
        if labels is not None and _are_classes(array := np.asarray(labels.cpu()), run):
            self._truth.add(array, "")  # type: ignore[union-attr]

    @hookimpl
    def after_validation(self, run: Run) -> None:
        """Look at the ground truth that was validated against.

        Raises:
            DataError: It holds at most a single class apart from ignored pixels.
        """
        if self._truth is not None and self._truth.samples:
            # With several ranks the others may have more.
            if self.samples and self._truth.is_uniform and run.mode == "val" and run.engine.world_size == 1:
                raise _stopped(run, "val", self._truth)
            _tell_missing(run, "val", self._truth.pixels, "have no ground truth on this rank; no metric covers")
        self._truth, self._truth_is_known = None, True

    def _look(self, run: Run, name: str, dataset: Dataset) -> None:
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
        looked = f"of {seen.samples} samples of {name} inspected"
        share = seen.ignored / max(seen.ignored + int(seen.pixels.sum()), 1)
        if share > 0.5:
            log.warning(
                "%d %% of the pixels %s are ignored; seg-kernel data check says why", round(100 * share), looked
            )
        if seen.empty:
            names = ", ".join(seen.empty[:5]) + (", ..." if len(seen.empty) > 5 else "")
            log.warning("%d %s have no pixel that counts: %s", len(seen.empty), looked, names)

    def _tell_of_training(self, run: Run) -> None:
        if self._counts_training and self._train is not None:
            pixels = self._train[: len(run.labels.classes)].cpu().numpy()
            _tell_missing(run, "train", pixels, "occurred in no training label so far; nothing can learn")
        self._counts_training, self._train = False, None


def _tell_missing(run: Run, part: str, pixels: np.ndarray, what: str) -> None:
    names = [name for name, count in zip(run.labels.classes, pixels, strict=True) if not count]
    if names and run.is_main:
        log.warning("%s: %s %s", part, ", ".join(names[:12]) + ", ..." * (len(names) > 12), what)


def _are_classes(labels: np.ndarray, run: Run) -> bool:
    """Whether labels are a map of class ids, not of depths or of independent classes."""
    return labels.ndim == 2 and labels.dtype.kind in "ui" and run.labels.task != "multilabel"


def _stopped(run: Run, name: str, seen: _Seen) -> DataError:
    """Return the error for a set with a single class, with the lines of the doctor that fix it."""
    classes = [label for label, count in zip(run.labels.classes, seen.pixels, strict=True) if count]
    ignored = " and pixels that are ignored" if seen.ignored else ""
    what = f"nothing but {classes[0]}{ignored}" if classes else "no pixel that counts"
    message = (
        f"the labels of data.{name} hold {what}, in all {seen.samples} samples: there is nothing to learn or measure"
    )
    meant = "if it is meant so: hooks+={type: LabelsHook, samples: 0}"
    return DataError("\n    ".join([message, *_advice(run, name).splitlines(), meant]))


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
    return "\n".join(errors) or "seg-kernel data check CONFIG says what the files hold"
