"""The sections of a config, as annotated classes, and how a `Runner` comes out of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from typing_extensions import TypedDict

from segkernel import rundir
from segkernel.build import build, check_arguments, construct
from segkernel.build import check as check_component
from segkernel.catalog import Catalog
from segkernel.config import Config, load_config
from segkernel.config.marks import place_of
from segkernel.config.sections import SECTIONS
from segkernel.data import Loader
from segkernel.engine import LocalEngine, together
from segkernel.errors import ConfigError, Problem, UsageError, suggest
from segkernel.evaluation import Evaluation
from segkernel.inference import TTA, PaddingConfig, Preprocessor
from segkernel.interfaces.data import Dataset, Sampler, Transform
from segkernel.interfaces.model import Engine, Exporter, Segmentor
from segkernel.interfaces.spec import Spec
from segkernel.labels import Task
from segkernel.loading import ambient_of, catalog_of, load_model, make_model, unavailable
from segkernel.optim import Paramwise, parameter_groups
from segkernel.randomness import seed_everything
from segkernel.runner import Runner
from segkernel.schedules import Schedule

log = logging.getLogger(__name__)

USUAL_TTA = TTA(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)


class PreprocessConfig(TypedDict, total=False):
    """Arguments of `Preprocessor`."""

    mean: Sequence[float]
    std: Sequence[float]
    size: tuple[int, int] | None
    size_divisor: int | None
    test_cfg: PaddingConfig | None


class ClipGrad(TypedDict, total=False):
    """Gradients are scaled so that their norm is at most ``max_norm``."""

    max_norm: float
    norm_type: float


@dataclass
class DataSection:
    """``data``: the sets, what is done to their samples, and how they are brought.

    Args:
        train: Data set to train on.
        val: To validate on.
        test: To test on.
        sampler: The draw order of training; None shuffles.
        train_transforms: Applied to training samples.
        eval_transforms: Applied to validation and test samples.
        preprocess: Normalisation and padding on the device.
        num_classes: For references: ``${data.num_classes}``.
        task: What a pixel is; sets the channels, losses, activation and threshold of all heads that do not say
            otherwise, and how data sets read labels. None leaves that to the heads: usually ``multiclass``.
        crop_size: For references, (height, width).
        align_corners: For references.
        micro_batch: Samples a device takes at once; None takes ``optim.batch_size``.
        eval_batch: Likewise in evaluation; images of different sizes are never batched.
        workers: Processes that bring samples.
        start_method: How they start.
        opencv_threads: Threads of OpenCV in each.
        persistent_workers: Keep them between evaluations.
    """

    train: Dataset | None = None
    val: Dataset | None = None
    test: Dataset | None = None
    sampler: Sampler | None = None
    train_transforms: Sequence[Transform] = ()
    eval_transforms: Sequence[Transform] = ()
    preprocess: PreprocessConfig = field(default_factory=lambda: PreprocessConfig())
    num_classes: int | None = None
    task: Task | None = None
    crop_size: tuple[int, int] | None = None
    align_corners: bool = False
    micro_batch: int | None = None
    eval_batch: int = 1
    workers: int = 2
    start_method: Literal["fork", "spawn", "forkserver"] | None = None
    opencv_threads: int = 0
    persistent_workers: bool = True


@dataclass
class OptimSection:
    """``optim``: the optimiser and its step.

    Args:
        optimizer: Torch's by name, or a plugin's.
        batch_size: Samples per step over all devices.
        clip_grad: Limit of the gradient's norm.
        paramwise: Factors per parameter.
    """

    optimizer: Spec[torch.optim.Optimizer] | None = None
    batch_size: int = 1
    clip_grad: ClipGrad | None = None
    paramwise: Paramwise | None = None


@dataclass
class ScheduleSection:
    """``schedule``: how long, and the learning rate on the way.

    Args:
        iterations: Optimiser steps; or
        epochs: passes over the training set.
        val_interval: In the same unit.
        val_begin: The iteration before which nothing is validated.
        lr: Schedules, applied in turn.
    """

    iterations: int | None = None
    epochs: float | None = None
    val_interval: float | None = None
    val_begin: int = 0
    lr: Sequence[Schedule] = ()


@dataclass
class PluginsSection:
    """``plugins``: whose component a short name means when several distributions offer it."""

    prefer: Sequence[str] = ()


_TYPED = {"data": DataSection, "optim": OptimSection, "schedule": ScheduleSection, "evaluate": Evaluation,
          "plugins": PluginsSection}  # fmt: skip
_COMPONENTS = {"model": "segmentors", "engine": "engines"}
_LISTS = {"hooks": "hooks", "export": "exporters"}
_PLAIN: dict[str, tuple[type, ...]] = {"seed": (int,), "work_dir": (str,), "load_from": (str,)}


def section_types() -> dict[str, Any]:
    """Return what each section holds, as an annotation."""
    plain = {name: kinds[0] for name, kinds in _PLAIN.items()}
    return {**_TYPED, "model": Segmentor, "engine": Engine, "hooks": list, "export": list[Exporter], **plain}


def check(config: Config) -> list[Problem]:
    """Return everything wrong with a config that can be known without building it."""
    if "unavailable" in config.meta:
        return [unavailable(config)]
    catalog = catalog_of(config)
    problems: list[Problem] = []
    for name, value in config.items():
        place = place_of(config.data, name)
        if name not in SECTIONS:
            problems.append(Problem("unknown section", name, place, suggest(name, SECTIONS)))
        elif value is not None:
            problems += _check_section(name, value, place, catalog, ambient_of(config))
    return problems


def _check_section(name: str, value: Any, place: str, catalog: Catalog, ambient: Mapping[str, Any]) -> list[Problem]:
    if name in _PLAIN:
        right = isinstance(value, _PLAIN[name]) and not isinstance(value, bool)
        wanted = _PLAIN[name][0].__name__
        return [] if right else [Problem(f"needs {wanted}, got {value!r}", name, place)]
    if name in _LISTS:
        if not isinstance(value, list):
            return [Problem(f"needs a list, got {value!r}", name, place)]
        checked = (check_component(_LISTS[name], v, path=f"{name}[{i}]", catalog=catalog) for i, v in enumerate(value))
        return [problem for problems in checked for problem in problems]
    if not isinstance(value, Mapping):
        return [Problem(f"needs a mapping, got {value!r}", name, place)]
    if name == "engine" and "type" not in value:
        return check_arguments(LocalEngine, value, path=name, catalog=catalog)
    if name in _COMPONENTS:
        return check_component(_COMPONENTS[name], value, path=name, catalog=catalog, ambient=ambient)
    return check_arguments(_TYPED[name], value, path=name, catalog=catalog, ambient=ambient if name == "data" else {})


def make_runner(
    config: Config,
    work_dir: str | Path | None = None,
    training: bool = True,
    model: Segmentor | None = None,
    hooks: Sequence[Any] = (),
) -> Runner:
    """Check a config and build the run it describes; nothing is written yet.

    Args:
        config: The whole config.
        work_dir: Wins over the config's.
        training: False leaves training and validation sets and the optimiser unbuilt.
        model: In place of the config's.
        hooks: Beside the config's.

    Raises:
        ConfigError: All problems at once.
    """
    problems = check(config)
    if problems:
        raise ConfigError(problems)
    catalog = catalog_of(config)
    seed = config.get("seed") or 0
    seed_everything(seed)
    engine = _engine(config, catalog)
    with together(engine):  # the files of one rank may be out of order
        return _make_runner(config, catalog, engine, seed, work_dir, training, model, hooks)


def _make_runner(
    config: Config,
    catalog: Catalog,
    engine: Engine,
    seed: int,
    work_dir: str | Path | None,
    training: bool,
    model: Segmentor | None,
    hooks: Sequence[Any],
) -> Runner:
    model = model or make_model(config, catalog)
    optim = construct(OptimSection, config.get("optim") or {}, path="optim", catalog=catalog)
    schedule = construct(ScheduleSection, config.get("schedule") or {}, path="schedule", catalog=catalog)
    sets = config.get("data") or {}
    sets = sets if training else _without_training(sets)
    data = construct(DataSection, sets, path="data", catalog=catalog, ambient=ambient_of(config))
    _check_classes(model, data, config)
    loaders = _loaders(data, optim, engine, seed)
    spec = optim.optimizer
    return Runner(
        model,
        **loaders,
        optimizer=(lambda m: _optimizer(m, spec, optim.paramwise)) if spec and training else None,
        iterations=schedule.iterations,
        epochs=schedule.epochs,
        val_interval=schedule.val_interval,
        val_begin=schedule.val_begin,
        batch_size=optim.batch_size if training else None,
        lr=schedule.lr,
        clip_grad=optim.clip_grad,
        evaluation=construct(Evaluation, config.get("evaluate") or {}, path="evaluate", catalog=catalog),
        hooks=[*_hooks(config, catalog), *hooks],
        engine=engine,
        preprocessor=Preprocessor(**data.preprocess),
        seed=seed,
        work_dir=work_dir or config.get("work_dir"),
        name=config.name,
        config=config.data,
    )


def _engine(config: Config, catalog: Catalog) -> Engine:
    spec = config.get("engine") or {}
    if "type" in spec:
        return build("engines", spec, path="engine", catalog=catalog)
    return construct(LocalEngine, spec, path="engine", catalog=catalog)


def _hooks(config: Config, catalog: Catalog) -> list[Any]:
    specs = enumerate(config.get("hooks") or ())
    return [build("hooks", spec, path=f"hooks[{index}]", catalog=catalog) for index, spec in specs]


def _without_training(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in ("train", "val", "sampler", "train_transforms")}


def _loaders(data: DataSection, optim: OptimSection, engine: Engine, seed: int) -> dict[str, Loader | None]:
    common = {
        "workers": data.workers,
        "seed": seed,
        "start_method": data.start_method,
        "opencv_threads": data.opencv_threads,
        "persistent_workers": data.persistent_workers,
        "pin_memory": engine.device.type == "cuda",
        "sampler": data.sampler,
    }
    whole = max(optim.batch_size // engine.world_size, 1)
    micro_batch = whole if data.micro_batch is None else data.micro_batch
    train = data.train if data.train is None else Loader(data.train, data.train_transforms, micro_batch, **common)  # type: ignore[arg-type]
    val, test = (
        part if part is None else Loader(part, data.eval_transforms, data.eval_batch, **common)  # type: ignore[arg-type]
        for part in (data.val, data.test)
    )
    return {"train": train, "val": val, "test": test}


def _optimizer(
    model: Segmentor, spec: Spec[torch.optim.Optimizer], paramwise: Paramwise | None
) -> torch.optim.Optimizer:
    arguments = spec.arguments
    groups = parameter_groups(model, arguments.get("lr", 1e-3), arguments.get("weight_decay", 0.0), paramwise)
    try:
        return spec(groups)
    except (ValueError, TypeError) as error:
        raise ConfigError(Problem(f"the optimizer refuses: {error}", "optim.optimizer")) from error


def _check_classes(model: Segmentor, data: DataSection, config: Config) -> None:
    """Refuse a model whose number of classes is not the data's."""
    output = model.outputs.get("seg")
    for name in ("train", "val", "test"):
        part: Any = getattr(data, name)
        if part is None:
            continue
        message, count = f"{type(part).__name__} has {len(part.classes)} classes", len(part.classes)
        if data.num_classes not in (None, count):
            place = place_of(config["data"], "num_classes")
            raise ConfigError(Problem(f"{data.num_classes}, but {message}", "data.num_classes", place))
        if output is not None and (problem := output.mismatch(part)):
            raise ConfigError(replace(problem, path=f"data.{name}", place=place_of(config["data"], name)))


def run(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str] = (),
    *,
    work_dir: str | Path | None = None,
    resume: str | Path | bool = False,
) -> Runner:
    """Run a config from start to end: train, validate, test, export; return the runner.

    Args:
        config: A file, a packaged name, a mapping, or a loaded config.
        overrides: ``key=value`` strings.
        work_dir: The run directory; None makes ``work_dirs/NAME/TIME``.
        resume: A checkpoint; True takes the newest of this run.
    """
    config = load_config(config, overrides)
    checkpoint: Path | None = None
    work_dir = work_dir or config.get("work_dir")
    if resume:
        checkpoint = rundir.latest_checkpoint(config.name, work_dir) if resume is True else Path(resume)
        if work_dir is None and checkpoint.parent.name == "checkpoints":
            work_dir = checkpoint.parent.parent
    runner = make_runner(config, work_dir)
    if checkpoint:
        runner.resume(checkpoint)
    elif config.get("load_from"):
        with catalog_of(config).active():
            runner.load_weights(config["load_from"])
    runner.run()
    for spec in (config.get("export") or ()) if runner.is_main else ():
        export(runner, build("exporters", spec, catalog=catalog_of(config)))
    return runner


def make_test(
    config: str | Path | Mapping[str, Any] | Config,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    work_dir: str | Path | None = None,
    tta: bool = False,
    hooks: Sequence[Any] = (),
) -> Runner:
    """Build a run that only tests.

    Args:
        config: A file, a packaged name, a mapping, a loaded config, or a checkpoint, which knows its config.
        weights: A checkpoint, or a file that an exporter wrote.
        overrides: ``key=value`` strings.
        work_dir: The run directory; None makes ``work_dirs/NAME/TIME``.
        tta: Use the config's test-time augmentation, or the usual one.
        hooks: Beside the config's.
    """
    loaded = load_model(config, weights, overrides)
    if loaded.config is None:
        raise UsageError(f"{config}: knows no data to test on; give the config first, then this file")
    if loaded.random:
        log.warning("no weights were given: the metrics are of an untrained model")
    runner = make_runner(loaded.config, work_dir, training=False, model=loaded.model, hooks=hooks)
    runner.evaluation.tta = (runner.evaluation.tta or USUAL_TTA) if tta else None
    return runner


def export(runner: Runner, exporter: Exporter) -> Path:
    """Export the runner's model as it stands, proven on an image of its test, validation or training set."""
    part = runner.test_set or runner.val_set or runner.train_set
    if part is None:
        raise UsageError("export: the run has no data to prove the file on")
    runner.model.eval()
    runner.preprocessor.eval()
    images, _ = runner.preprocessor(next(iter(part.eval_batches())).to(runner.engine.device))
    path = runner.work_dir / f"model{exporter.suffix}"
    log.info("exported %s\n%s", path, exporter.export(runner.model, path, images[:1], rundir.metadata(runner)))
    return path
