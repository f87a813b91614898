"""``seg-kernel test``: metrics, label files and overlays of a model on a config's test set."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkernel.cli import DEVICE, TRUST
from segkernel.errors import UsageError
from segplug_datasets.commands.target import exporter_spec, is_model, split_overrides, tta_of

if TYPE_CHECKING:
    from segkernel import Runner

log = logging.getLogger(__name__)


@click.command("test")
@click.argument("config", help="A config; or a run directory or checkpoint, which is a model, too.")
@click.argument(
    "others",
    nargs=-1,
    metavar="[WEIGHTS]... [KEY=VALUE]...",
    help="Checkpoints, run directories or exported files, and changes of the config.",
)
@click.option(
    "--out", "labels_dir", type=click.Path(file_okay=False), metavar="DIR", help="Write a label PNG for every image."
)
@click.option("--show-dir", type=click.Path(file_okay=False), metavar="DIR", help="Write an overlay for every image.")
@click.option("--show", is_flag=True, help="Show each overlay in a window.")
@click.option("--wait-time", type=float, default=0, metavar="SECONDS", help="Time to show each; 0 waits for a key.")
@click.option("--opacity", type=click.FloatRange(0, 1, min_open=True), default=0.5, help="Opacity of the colours.")
@click.option("--tta", is_flag=True, help="Average over scales and mirroring (evaluate.tta, or 0.5 to 1.75 and flip).")
@click.option("--work-dir", metavar="DIR", help="Run directory. [default: work_dirs/NAME/TIME]")
@DEVICE
@click.option("--exporter", metavar="SPEC", help="Loads an exported file: a name, or '{type: NAME, argument: value}'.")
@click.option("--format-only", is_flag=True, help="Only predict, without metrics: for a set without annotations.")
@TRUST
def command(
    config: str,
    others: tuple[str, ...],
    tta: bool,
    work_dir: str | None,
    device: str | None,
    exporter: str | None,
    format_only: bool,
    trust: bool,
    **pictures: Any,
) -> None:
    """Test CONFIG with WEIGHTS, a checkpoint or an exported file; CONFIG may itself be a checkpoint of a run.

    Several models are an ensemble, as in `seg-kernel predict`: their probabilities are averaged.

    \b
    Examples:
      seg-kernel test best.pt
      seg-kernel test my.yaml best.pt --tta
      seg-kernel test runs/a runs/b
      seg-kernel test my.yaml model.onnx --show-dir overlays
    """
    from segplug_datasets.pictures_hook import PicturesHook

    overrides, weights = split_overrides(others)
    models = [config, *weights] if is_model(config) else weights
    overrides += [f"+engine.device={device}"] if device else []
    overrides += ["+evaluate.format_only=true"] if format_only else []
    show_dir, labels_dir = pictures["show_dir"], pictures["labels_dir"]
    hooks = [PicturesHook(count=0, **pictures)] if show_dir or labels_dir or pictures["show"] else []
    if len(models) > 1:
        runner = _make_ensemble_test(config, models, overrides, work_dir, tta, hooks, trust, exporter)
    else:
        runner = _make_test(config, weights[0] if weights else None, overrides, work_dir, tta, hooks, trust, exporter)
    try:
        metrics = runner.test()
    finally:
        runner.close()
    shown = "  ".join(f"{name} {value:.2f}" for name, value in metrics.items() if "." not in name)
    click.echo(shown or "predicted; nothing to compare with")
    for what, folder in {"pictures": show_dir or runner.work_dir / "pictures", "labels": labels_dir}.items():
        if folder and Path(folder).is_dir():
            click.echo(f"{what:<8}  {folder}")


def _make_test(
    config: str,
    weights: str | None,
    overrides: Sequence[str],
    work_dir: str | None,
    tta: bool,
    hooks: Sequence[Any],
    trust: bool,
    exporter: str | None,
) -> Runner:
    """Return a runner for testing, without training set and optimiser; the model may be an exported file."""
    from segkernel.experiment import make_runner
    from segkernel.loading import load_model

    loaded = load_model(config, weights, overrides, exporter=exporter_spec(exporter), trust=trust)
    if loaded.config is None:
        raise UsageError(f"{config}: has no data to test on; give the config first, then this file")
    if loaded.random:
        log.warning("no weights given: the metrics are those of an untrained model")
    runner = make_runner(loaded.config, work_dir, training=False, model=loaded.model, hooks=hooks)
    if type(iteration := loaded.meta.get("iteration")) is int:
        runner.iteration = iteration  # of the weights, for the log
    runner.evaluation.tta = tta_of(loaded.config) if tta else None
    return runner


def _make_ensemble_test(
    config: str,
    models: Sequence[str],
    overrides: Sequence[str],
    work_dir: str | None,
    tta: bool,
    hooks: Sequence[Any],
    trust: bool,
    exporter: str | None,
) -> Runner:
    """Return a runner that tests an ensemble on the data of the config, or of the first model."""
    from segkernel import Predictor
    from segkernel.errors import CheckpointError
    from segkernel.experiment import make_runner
    from segkernel.loading import load_model
    from segplug_datasets.predict.ensemble import Ensemble, as_segmentor

    def predictor_of(model: str) -> Predictor:
        options: dict[str, Any] = {"overrides": overrides, "exporter": exporter_spec(exporter), "trust": trust}
        try:
            return Predictor(model, **options)
        except CheckpointError:  # weights without their config
            return Predictor(config, model, **options)

    log.info("an ensemble of %d models: %s", len(models), ", ".join(models))
    predictors = [predictor_of(model) for model in models]
    for each in predictors:
        each.tta = tta_of(each.config) if tta else None
    ensemble = Ensemble(predictors)
    if getattr(ensemble.reader, "takes_pairs", False):
        raise UsageError("an ensemble of models that compare two images cannot be tested; seg-kernel predict runs it")
    # Images reach the ensemble one by one and unchanged, as each model has its own transforms.
    channels = predictors[0].preprocessor.mean.shape[1]
    plain = {"data.eval_transforms": [], "data.eval_batch": 1, "evaluate.test_cfg": {"mode": "whole"}}
    plain |= {"data.preprocess": {"mean": [0.0] * channels, "std": [1.0] * channels}}
    changes = [f"+{key}={json.dumps(value)}" for key, value in plain.items()]
    loaded = load_model(config, None, [*overrides, *changes], trust=trust)
    if loaded.config is None:
        raise UsageError(f"{config}: has no data to test on; give a config first, then the models")
    return make_runner(loaded.config, work_dir, training=False, model=as_segmentor(ensemble), hooks=hooks)
