"""`EvaluationReport`: writes an evaluation as tables, prediction files and an HTML page.

hooks:
  - {type: EvaluationReport, bootstrap: 1000, format: auto}
"""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segkernel.annotations import NonNegativeInt
from segkernel.errors import UsageError
from segkernel.files import replacing
from segkernel.hookspecs import Priority, hookimpl
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.metrics.bootstrap import interval, resample
from segplug_datasets.metrics.counts import mean, per_class, percent, pixel_accuracy, to_array
from segplug_datasets.report.drawing import confusion_svg, panels
from segplug_datasets.report.formats import default_format, find_format, value_table, write_prediction
from segplug_datasets.report.page import Page
from segplug_datasets.report.record import Record
from segplug_datasets.report.slices import cut, read_table

if TYPE_CHECKING:
    from segkernel.hookspecs import Run
    from segkernel.sample import Prediction, Targets

log = logging.getLogger(__name__)


class EvaluationReport:
    """After a test or a validation, write into the folder ``evaluation`` of the run directory:

    ``report.html`` (metrics, classes, confusion matrix, slices, worst images; self-contained),
    ``per_image.csv`` (name, aAcc, mIoU and the IoU of each class), ``per_image.npz`` (for ``seg-kernel compare``),
    ``confusion.csv`` and ``confusion.svg``; and, when a ``format`` is given, ``predictions/`` with a file for each
    image and ``values.csv`` with the file value of each class. For a set without annotations, only predictions are
    written.

    Args:
        out_dir: Output folder instead of ``evaluation``.
        when: After a ``test``, after each validation (``val``; the last one is kept), or after both.
        worst: Number of worst images shown.
        slices: Attributes to slice the set by: ``folder``, ``size``, and columns of ``slice_file``; all when None.
        slice_file: CSV file with a column ``name`` and others, whose values define the slices.
        format: Format of prediction files, one of `segplug_datasets.report.formats.FORMATS`; ``auto`` is that of the
            data set's test server; None writes none.
        bootstrap: Number of bootstrap draws for 95 % intervals; 0 computes none.
        table: Whether the table of images is CSV or one JSON object per line.
        field: The output and annotation to compare.

    Raises:
        UsageError: When an argument is out of range.
    """

    priority = Priority.BELOW_NORMAL

    def __init__(
        self,
        out_dir: str | Path | None = None,
        when: Literal["test", "val", "both"] = "test",
        worst: NonNegativeInt = 12,
        slices: Sequence[str] | None = None,
        slice_file: str | Path | None = None,
        format: str | None = None,
        bootstrap: NonNegativeInt = 0,
        table: Literal["csv", "jsonl"] = "csv",
        field: str = "seg",
    ) -> None:
        if when not in ("test", "val", "both") or table not in ("csv", "jsonl"):
            raise UsageError(f"when {when!r} is test, val or both; table {table!r} is csv or jsonl")
        if worst < 0 or bootstrap < 0:
            raise UsageError(f"worst {worst} and bootstrap {bootstrap} are 0 or more")
        if format not in (None, "auto"):
            find_format(format)
        self.out_dir, self.when, self.worst = out_dir, when, worst
        self.slices, self.slice_file = slices, slice_file
        self.format, self.bootstrap, self.table, self.field = format, bootstrap, table, field
        self._record: Record | None = None
        self._written = 0

    @hookimpl
    def before_validation(self) -> None:
        self._record, self._written = None, 0

    @hookimpl
    def before_test(self) -> None:
        self._record, self._written = None, 0

    @hookimpl
    def after_prediction(self, run: Run, prediction: Prediction, target: Targets) -> None:
        if not self._wanted(run.mode):
            return
        if self.field not in prediction:
            raise UsageError(f"EvaluationReport: the model has no output {self.field!r}, only {', '.join(prediction)}")
        if self.format is not None and run.mode == "test":
            name, labels = str(prediction.meta["name"]), self._labels(run)
            folder, ids = self._folder(run) / "predictions", to_array(prediction[self.field])
            write_prediction(folder, name, ids, labels, self._format(run))
            self._written += 1
        if self.field in target:
            self._record = self._record or Record(self._labels(run).classes, self.worst, self.field)
            self._record.add(prediction, target)

    @hookimpl
    def after_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._finish(run, metrics, "val")

    @hookimpl
    def after_test(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._finish(run, metrics, "test")

    def _wanted(self, mode: str) -> bool:
        return mode in ("test", "val") and self.when in (mode, "both")

    def _folder(self, run: Run) -> Path:
        return Path(self.out_dir) if self.out_dir is not None else run.work_dir / "evaluation"

    def _labels(self, run: Run) -> LabelSpec:
        if self.field == "seg":
            if run.labels.task == "multilabel":
                raise UsageError(f"{type(self).__name__} takes no labels of task multilabel: remove the hook")
            return LabelSpec.of(run.labels)
        count = run.model.outputs[self.field].classes
        return LabelSpec(tuple(f"{self.field} {index}" for index in range(count)))

    def _format(self, run: Run) -> str:
        return default_format(run.test_set.dataset) if self.format == "auto" else str(self.format)  # type: ignore[union-attr]

    def _finish(self, run: Run, metrics: Mapping[str, float], mode: str) -> None:
        if not self._wanted(mode):
            return
        record = run.engine.merge(self._record or Record(self._labels(run).classes, self.worst, self.field))
        if not run.is_main:
            return
        folder = self._folder(run)
        if self._written:
            _write_csv(folder / "values.csv", [["class", "value"], *value_table(self._labels(run), self._format(run))])
            log.info("predictions (%s) in %s", self._format(run), folder / "predictions")
        if len(record.images):
            self._write(run, record, metrics, folder, mode)
            self._record = None
            log.info("report of the evaluation: %s", folder / "report.html")

    def _write(self, run: Run, record: Record, metrics: Mapping[str, float], folder: Path, mode: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        labels = self._labels(run)
        record.images.write_table(folder / f"per_image.{self.table}")
        record.images.save(folder / "per_image.npz")
        counts = record.confusion[: len(labels.classes)]
        header = ["true", *labels.classes, "(none)"]
        _write_csv(folder / "confusion.csv", [header, *([n, *row] for n, row in zip(labels.classes, counts.tolist()))])
        _write_text(folder / "confusion.svg", confusion_svg(record.confusion, labels.classes))
        page = Page(
            title=f"{run.work_dir.parent.name}/{run.work_dir.name}",
            subtitle=self._subtitle(run, record, mode),
            classes=labels.classes,
            palette=labels.palette,
            confusion=record.confusion,
            metrics=metrics,
            bounds=self._bounds(record),
            slices=self._cut(record),
            gallery=self._gallery(run, record, mode, labels),
        )
        _write_text(folder / "report.html", page.html())

    def _subtitle(self, run: Run, record: Record, mode: str) -> str:
        part = run.test_set if mode == "test" else run.val_set
        name, images = type(part.dataset).__name__, len(record.images)  # type: ignore[union-attr]
        moment = time.strftime("%Y-%m-%d %H:%M")
        return f"{mode} set of {images} images ({name}), iteration {run.iteration}, {moment}"

    def _bounds(self, record: Record) -> dict[str, tuple[float, float]]:
        """Return the 95 % intervals that the page shows."""
        if not self.bootstrap:
            return {}
        drawn = resample(record.images.areas, self.bootstrap, seed=0)
        metrics = per_class(drawn)
        values = {"aAcc": pixel_accuracy(drawn)} | {f"m{kind}": mean(metrics[kind]) for kind in ("IoU", "Acc", "Dice")}
        values |= {f"IoU.{name}": metrics["IoU"][:, place] for place, name in enumerate(record.images.classes)}
        bounds = {name: interval(draws, 0.95) for name, draws in values.items()}
        return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}

    def _cut(self, record: Record) -> list[Any]:
        facts, kinds = record.facts, ["folder", "size"]
        if self.slice_file is not None:
            listed = read_table(self.slice_file, record.images.names)
            kinds += list(next(iter(listed.values())))
            facts = {name: {**known, **listed.get(name, {})} for name, known in facts.items()}
        return cut(record.images, facts, kinds if self.slices is None else self.slices)

    def _gallery(self, run: Run, record: Record, mode: str, labels: LabelSpec) -> list[Any]:
        part = run.test_set if mode == "test" else run.val_set
        gallery = []
        for kept in record.worst:
            sample = part.dataset[kept.index]  # type: ignore[union-attr]
            pictures = panels(
                sample.image, sample[self.field].array, kept.labels(), labels.palette, classes=labels.classes
            )
            gallery.append((f"{kept.name}: mean IoU {percent(kept.score)}", pictures))
        return gallery


def _write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
