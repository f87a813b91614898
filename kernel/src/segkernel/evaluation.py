"""One pass over a data set: predictions to metrics and hooks, and the loss."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segkernel.data import Loader
from segkernel.engine import blame_batch, together
from segkernel.errors import DataError, UsageError, warn_renamed
from segkernel.inference import predict_batch
from segkernel.interfaces.data import Metric
from segkernel.sample import Batch

if TYPE_CHECKING:
    from segkernel.runner import Runner

log = logging.getLogger(__name__)


def evaluate(run: Runner, part: Loader, kind: str) -> dict[str, float] | None:
    """Return the metrics of a set, ``kind`` val or test; None when a signal interrupted it.

    Each rank evaluates its share of the set; sums and counts are reduced. The model is in evaluation mode.
    """
    metrics = [] if run.evaluation.format_only else [_fresh(metric, run) for metric in run.evaluation.metrics]
    losses: dict[str, list[Tensor]] = {}
    with run.engine.evaluating(), together(run.engine):
        for batch in run.engine.transfer(part.eval_batches(run.engine.rank, run.engine.world_size)):
            if run.received or run.engine.alerted:
                break
            _need_annotations(metrics, batch, part)
            terms = _predict(run, batch, metrics, kind == "val" and "seg" in batch.targets and _wants_loss(run))
            for name, value in terms.items():
                losses.setdefault(name, []).append(value.mean() * len(batch))
        if run.received:
            run.engine.alert(f"signal {run.received}")
    run.agree_on_stop()
    if run.signal:
        return None
    return _reduced(run, metrics, {name: torch.stack(values).tolist() for name, values in losses.items()}, kind)


_COUNT = "count"
"""Key of the number of images in the sums of losses."""


def _fresh(metric: Metric, run: Runner) -> Metric:
    """Copy a metric; what it has of ``known`` and is None is set."""
    fresh, known = deepcopy(metric), {"classes": run.labels.classes, "labels": run.labels}
    for name, value in {**known, "split": run.mode, "work_dir": run.work_dir}.items():
        if getattr(fresh, name, ()) is None:
            setattr(fresh, name, value)
    if run.labels.task == "multilabel" and "multilabel" not in getattr(metric, "tasks", ()):
        raise UsageError(f"{type(metric).__name__} does not support task multilabel; IoUMetric does")
    return fresh


def _need_annotations(metrics: Sequence[Metric], batch: Batch, part: Loader) -> None:
    if not (batch.truths[0].fields or all(getattr(metric, "format_only", False) for metric in metrics)):
        name = type(part.dataset).__name__
        message = f"{name} has no annotations to compare with; set evaluate.format_only: true to only predict"
        raise DataError(message, batch.meta[0].get("path"))


def _sees_whole_images(run: Runner) -> bool:
    return (run.evaluation.test_cfg or run.model.test_cfg).get("mode", "whole") == "whole"


def _wants_loss(run: Runner) -> bool:
    return run.model.one_pass and _sees_whole_images(run) if run.evaluation.loss is None else run.evaluation.loss


def _predict(run: Runner, batch: Batch, metrics: Sequence[Metric], with_loss: bool) -> dict[str, Tensor]:
    """Update the metrics with a batch; return its losses and a count of one, if ``with_loss``."""
    losses: dict[str, Tensor] = {}
    with blame_batch([batch]):
        images, targets = run.preprocessor(batch)

        def predict_and_learn(images: Tensor) -> dict[str, Any]:
            raw, found = run.engine.predict_with_loss(images, targets)
            losses.update({**found, _COUNT: torch.ones(())})
            return raw

        shared = with_loss and _sees_whole_images(run)
        if with_loss and not shared:  # windows have no loss
            predict_and_learn(images)
        predictions = predict_batch(
            predict_and_learn if shared else run.engine.predict,
            batch,
            images,
            outputs=run.model.outputs,
            test_cfg=run.evaluation.test_cfg or run.model.test_cfg,
            tta=run.evaluation.tta if run.mode == "test" else None,
            probabilities=any(map(_needs_probabilities, metrics)),
        )
    for prediction, truth in zip(predictions, batch.truths):
        for metric in metrics:
            metric.update(prediction, truth)
        run.hooks.after_prediction(run=run, prediction=prediction, target=truth)
    return losses


def _needs_probabilities(metric: Metric) -> bool:
    if getattr(metric, "needs_scores", False):
        warn_renamed(f"{type(metric).__name__}.needs_scores", "needs_probabilities")
        return True
    return getattr(metric, "needs_probabilities", False)


def _reduced(run: Runner, metrics: Sequence[Metric], losses: dict[str, list[float]], kind: str) -> dict[str, float]:
    sums = run.engine.sum(losses)
    count = sums.pop(_COUNT, 0)
    found = {name: value / count for name, value in sums.items()}
    for metric in metrics:
        merged = run.engine.merge(metric)
        found |= {name: float(value) for name, value in merged.compute().items()}
        if run.is_main and hasattr(merged, "table"):
            log.info("%s at iteration %d\n%s", kind, run.iteration, merged.table())
    run.metrics = found
    run.emit({"kind": kind, "iteration": run.iteration, **found})
    return found
