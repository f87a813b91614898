"""From the sections of a config to a `Runner`, and complete runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segkernel import rundir
from segkernel.building import build
from segkernel.building import check as check_sections
from segkernel.catalog import Catalog
from segkernel.config import Config, load_config
from segkernel.config.marks import MarkedDict, place_of
from segkernel.config.sections import DataSection, OptimSection, Sections
from segkernel.data import Loader
from segkernel.engine import together
from segkernel.errors import ConfigError, Problem
from segkernel.inference import Preprocessor
from segkernel.interfaces.model import Engine, Exporter, Segmentor
from segkernel.interfaces.spec import Spec
from segkernel.loading import ambient_of, catalog_of, make_model, unavailable
from segkernel.randomness import seed_everything
from segkernel.runner import Runner

log = logging.getLogger(__name__)

SETS = ("train", "val", "test")


def check(config: Config, training: bool = True) -> list[Problem]:
    """Return all problems of a config that show without building it; ``training`` includes those of training only."""
    if "unavailable" in config.meta:
        return [unavailable(config)]
    return check_sections(Sections, _sections(config, training), catalog=catalog_of(config), ambient=ambient_of(config))


def _sections(config: Config, training: bool) -> MarkedDict:
    """Return the sections that a run builds; without ``training``, those for training are not even imported."""
    if training:
        return config.data
    given = config.data.without("optim", "schedule", "export", "load_from")
    if isinstance(data := given.get("data"), MarkedDict):
        given["data"] = data.without("train", "val", "sampler", "train_transforms")
    return given


def make_runner(
    config: Config,
    work_dir: str | Path | None = None,
    training: bool = True,
    model: Segmentor | None = None,
    hooks: Sequence[Any] = (),
    pretrained: bool = True,
) -> Runner:
    """Check a config and build its run; writes nothing.

    Args:
        config: The whole config.
        work_dir: Overrides the config's.
        training: False does not build the training and validation sets and the optimiser.
        model: Replaces the config's.
        hooks: In addition to the config's.
        pretrained: Whether to load the model's ``pretrained`` weights; False if all weights come from a checkpoint.

    Raises:
        ConfigError: With every problem.
    """
    if problems := check(config, training):
        raise ConfigError(problems)
    sets, length = config.get("data") or {}, config.get("schedule") or {}
    if training and sets.get("train") and length.get("iterations") is length.get("epochs") is None:
        raise ConfigError(Problem("set schedule.iterations or schedule.epochs, neither is set", "schedule"))
    catalog, seed = catalog_of(config), config.get("seed") or 0
    seed_everything(seed)
    engine: Engine = build("engines", config.get("engine") or {}, path="engine", catalog=catalog)
    with together(engine):  # files may be missing or damaged on one rank only
        parts = _parts(config, catalog, training)  # before the model: its weights may be downloaded
        model = model or make_model(config, catalog, pretrained and not config.get("load_from"))
        data, optim = parts.data, parts.optim
        check_classes(model, {name: getattr(data, name) for name in SETS}, config)
        return Runner(
            model,
            **_loaders(data, optim, engine, seed),
            **vars(parts.schedule),
            optimizer=partial(_optimizer, spec=optim.optimizer, optim=optim) if optim.optimizer else None,
            batch_size=optim.batch_size if training else None,
            clip_grad=optim.clip_grad,
            evaluation=parts.evaluate,
            hooks=[*parts.hooks, *hooks],
            engine=engine,
            preprocessor=Preprocessor(**data.preprocess),
            seed=seed,
            work_dir=work_dir or (config.get("work_dir") if config.trusted else None),
            name=config.name,
            config=config.data,
        )


def _parts(config: Config, catalog: Catalog, training: bool) -> Any:
    """Build the sections of a run, `Sections`, without its model and engine."""
    names = ("data", "optim", "schedule", "evaluate", "hooks")
    given = _sections(config, training)
    given = given.without(*(name for name in given if name not in names or given[name] is None))
    return build(Sections, given, catalog=catalog, ambient=ambient_of(config))


def _loaders(data: DataSection, optim: OptimSection, engine: Engine, seed: int) -> dict[str, Any]:
    shared = ("workers", "start_method", "opencv_threads", "persistent_workers", "sampler")
    common = {name: getattr(data, name) for name in shared} | {"seed": seed, "pin_memory": engine.device.type == "cuda"}
    micro_batch = data.micro_batch or max(optim.batch_size // engine.world_size, 1)
    train = data.train if data.train is None else Loader(data.train, data.train_transforms, micro_batch, **common)
    val, test = (
        part if part is None else Loader(part, data.eval_transforms, data.eval_batch, **common)
        for part in (data.val, data.test)
    )
    return {"train": train, "val": val, "test": test}


def _optimizer(model: Segmentor, spec: Spec[torch.optim.Optimizer], optim: OptimSection) -> torch.optim.Optimizer:
    try:
        trained: list[Any] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        usual = spec(trained).defaults
        lr = usual["lr"] * (optim.batch_size / (optim.base_batch_size or optim.batch_size))
        if optim.paramwise:
            trained = optim.paramwise(model, lr, usual.get("weight_decay", 0.0))
        return spec(trained, lr=lr)
    except (ValueError, TypeError) as error:
        raise ConfigError(Problem(f"the optimizer cannot be built: {error}", "optim.optimizer")) from error


def check_classes(model: Segmentor, sets: Mapping[str, Any], config: Config) -> None:
    """Check that the model's classes are as many as those of the data sets, by ``train``, ``val`` and ``test``."""
    output, section = model.outputs.get("seg"), config.get("data") or MarkedDict()
    count = section.get("num_classes")
    for name, part in ((name, part) for name, part in sets.items() if part is not None):
        if count not in (None, len(part.classes)):
            message = f"{count}, but {type(part).__name__} has {len(part.classes)} classes"
            raise ConfigError(Problem(message, "data.num_classes", place_of(section, "num_classes")))
        if output is not None and (problem := output.mismatch(part)):
            raise ConfigError(replace(problem, path=f"data.{name}", place=place_of(section, name)))


def run(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str] = (),
    *,
    work_dir: str | Path | None = None,
    resume: str | Path | bool = False,
) -> Runner:
    """Run a config: train, validate, test, export; return the runner.

    Args:
        config: A file, a packaged name, a mapping, or a loaded config.
        overrides: ``key=value`` strings.
        work_dir: The run directory; None creates ``work_dirs/NAME/TIME``.
        resume: A checkpoint; True takes the newest of this run.
    """
    config = load_config(config, overrides)
    work_dir, checkpoint = rundir.resume_point(config.name, work_dir or config.get("work_dir"), resume)
    runner = make_runner(config, work_dir, pretrained=checkpoint is None)
    # A replacement host does not know that the ranks were restarted; the other ranks do.
    if found := next(filter(None, runner.engine.gather(checkpoint)), None):
        runner.resume(found)
    elif config.get("load_from"):
        with catalog_of(config).active():
            runner.load_weights(config["load_from"])
    runner.run()
    for spec in (config.get("export") or ()) if runner.is_main else ():
        export(runner, build("exporters", spec, catalog=catalog_of(config)))
    return runner


def export(runner: Runner, exporter: Exporter) -> Path:
    """Export the runner's current model, verified on an image of its test, validation or training set."""
    part = next(part for part in (runner.test_set, runner.val_set, runner.train_set) if part is not None)
    runner.model.eval()
    runner.preprocessor.eval()
    images, _ = runner.preprocessor(next(iter(part.eval_batches())).to(runner.engine.device))
    path = runner.work_dir / f"model{exporter.suffix}"
    log.info("exported %s\n%s", path, exporter.export(runner.model, path, images[:1], rundir.metadata(runner)))
    return path
