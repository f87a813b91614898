"""``seg-kernel run X --dry-run``: model, schedule, memory and disk of a run, before anything is trained.

seg-kernel run my.yaml --dry-run
seg-kernel run my.yaml --dry-run --memory 24GiB             # would it fit on that card?
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkernel.cli import CONFIG, OVERRIDES
from segkernel.config import load_config
from segkernel.errors import SegKernelError, UsageError
from segplug_training.text_table import read_size, size_text, text_table

if TYPE_CHECKING:
    from segkernel import Runner
    from segkernel.config import Config
    from segplug_training.predicted_memory import StepMemory

log = logging.getLogger(__name__)

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class DoesNotFitError(SegKernelError):
    """The run needs more memory or disk than available."""


class DryRunCommand(click.Command):
    """Takes its arguments with or without the name of the command ``run`` before them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remove the word ``run`` at the start, which ``seg-kernel run my.yaml --dry-run`` passes on."""
        return super().parse_args(ctx, args[1:] if args[:1] == ["run"] else args)


@click.command("dry-run", cls=DryRunCommand)
@CONFIG
@OVERRIDES
@click.option("--work-dir", metavar="DIR", help="Run directory; its disk's free space is checked.")
@click.option("--memory", metavar="SIZE", help="Memory of the device, 24GiB. [default: free memory of this one]")
@click.option("--amp", is_flag=True, help="As for run.")
@click.option("--device", metavar="NAME", help="As for run.")
def command(
    config: str,
    overrides: tuple[str, ...],
    work_dir: str | None,
    memory: str | None,
    amp: bool,
    device: str | None,
) -> None:
    """Show the model, schedule, memory and disk of ``run CONFIG``; the same as ``run CONFIG --dry-run``.

    The model is built without memory for its weights, and one batch is read.

    \b
    Examples:
      seg-kernel run my.yaml --dry-run
      seg-kernel dry-run my.yaml --memory 8GiB
    """
    from segplug_training.free_memory import free_memory

    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if int(os.environ.get("RANK", "0")):
        return
    changes = [*overrides] + (["+engine.amp=true"] if amp else []) + ([f"+engine.device={device}"] if device else [])
    loaded = load_config(config, changes)
    log.info("building the model without weights, and reading one batch")
    plan = make_plan(loaded, world_size, work_dir)
    for lines in plan.describe():
        click.echo(f"{lines}\n")
    there = read_size(memory) if memory else free_memory(plan.runner.engine.device)
    click.echo(plan.check(there))


@dataclass
class Plan:
    """A run that was built without allocating its model.

    Args:
        runner: The run; its model and optimiser are fake: they have shapes, but no values.
        memory: Predicted memory of a step that is not sharded.
        folder: Run directory that it would write to.
    """

    runner: Runner
    memory: StepMemory
    folder: Path

    def describe(self) -> Iterator[str]:
        """Yield the tables, as text."""
        yield parameter_table(self.runner)
        yield group_table(self.runner)
        shapes = [(part, "  ".join(map(str, found))) for part, found in self.memory.shapes.items() if found]
        yield "\n".join(
            f"{part:<24}{found}" for part, found in [("part", "output (batch, channels, height, width)"), *shapes]
        )
        yield "\n".join(self._length())
        yield self._memory_table()

    def _length(self) -> Iterator[str]:
        run = self.runner
        samples = len(run.train_set.dataset) if run.train_set is not None else 1
        epochs = run.max_iterations * run.batch_size / samples
        yield f"iterations   {run.max_iterations} of {run.batch_size} samples = {epochs:.4g} epochs of {samples}"
        step = f"{run.accumulate} x {run.batch_size // run.accumulate // run.engine.world_size}"
        yield f"each step    {step} samples on {run.engine.world_size} device(s), {run.engine.device}"
        if run.val_set is not None:
            yield f"validation   {_listed(validations(run))}, of {len(run.val_set.dataset)} samples"
        yield f"checkpoints  {_listed(saves(run))}; {self.checkpoints_kept} kept, {size_text(self.checkpoint)} each"

    def _memory_table(self) -> str:
        found = self.memory_per_rank
        averages = found.weights * self._averages
        rows = [("weights", found.weights), ("averaged weights", averages), ("optimizer", found.optimizer)]
        rows += [("gathered weights", found.gathered)] if found.gathered else []
        rows += [("gradients", found.gradients), ("activations", found.activations)]
        if found.failure is None:
            rows += [(f"  {part}", size) for part, size in found.parts.items()]
            rows += [("  batch, backward pass", found.activations - sum(found.parts.values()))]
        rows += [("peak", self.peak)]
        text = text_table(("memory at the peak", "size"), [(name, size_text(size)) for name, size in rows])
        if self.memory.at_most:
            text += "\nupper bound: where a mask selects pixels, all are counted"
        elif found.at_most:
            text += "\nupper bound: activations are counted in the type of the shards, not in engine.param_dtype"
        return text if found.failure is None else f"{text}\nactivations are unknown: {found.failure}"

    @property
    def memory_per_rank(self) -> StepMemory:
        """Predicted memory of a step on each rank."""
        from segplug_training.fsdp import FSDPEngine
        from segplug_training.sharded_memory import memory_per_rank

        engine = self.runner.engine
        if isinstance(engine, FSDPEngine) and engine.world_size > 1:
            return memory_per_rank(self.memory, self.runner.model, engine, self.runner.accumulate)
        return self.memory

    @property
    def _averages(self) -> int:
        """Number of averages of the weights."""
        from segplug_training.ema import EMAHook
        from segplug_training.swa import SWAHook

        return sum(isinstance(hook, (EMAHook, SWAHook)) for hook in self.runner.hooks.hooks)

    @property
    def peak(self) -> int:
        """Peak memory of a step on the device in bytes."""
        found = self.memory_per_rank
        return found.peak + found.weights * self._averages

    @property
    def least(self) -> int:
        """Bytes that a step needs however many values its masks select: all but activations and gathered weights."""
        found = self.memory_per_rank
        return found.weights * (1 + self._averages) + found.optimizer + found.gradients

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint."""
        return self.memory.weights * (1 + self._averages) + self.memory.optimizer

    @property
    def checkpoints_kept(self) -> int:
        """Maximum number of checkpoints left at the end."""
        count = len(saves(self.runner))
        kept = 0
        for hook in _checkpoint_hooks(self.runner):
            best = len(hook.best) * hook.top_k if self.runner.val_set is not None else 0
            kept += min(count, (hook.keep or count) + best)
        return kept

    @property
    def disk(self) -> int:
        """Maximum bytes on disk: one more checkpoint exists while it is written."""
        return self.checkpoint * (self.checkpoints_kept + 1)

    def check(self, memory: int | None) -> str:
        """Return a line that states that the run fits.

        Args:
            memory: Bytes of memory of the device; None if unknown.

        If only an upper bound of a step's memory is known, and what it needs at least fits, it warns.

        Raises:
            DoesNotFitError: When memory or disk are too small.
        """
        place = next(folder for folder in (self.folder.absolute(), *self.folder.absolute().parents) if folder.exists())
        free, problems = shutil.disk_usage(place).free, []
        if memory is not None and self.peak > memory:
            needs = self._lack(memory)
            if self.memory_per_rank.at_most and self.least <= memory:
                log.warning("it may not fit: as an upper bound, %s", needs)
            else:
                problems.append(needs)
        if self.disk > free:
            hint = "fewer checkpoints: keep and top_k of CheckpointHook; or another disk: --work-dir"
            needs = f"{self.checkpoints_kept} checkpoints and one being written need {size_text(self.disk)}"
            problems.append(f"{needs}, and {place} has {size_text(free)}\n    {hint}")
        if problems:
            raise DoesNotFitError("the run does not fit: " + "\n".join(problems))
        has = "an unknown amount" if memory is None else size_text(memory)
        fits = "fits" if memory is None or self.peak <= memory else "may fit"
        return f"{fits}: {size_text(self.peak)} of {has} of memory, {size_text(self.disk)} of {size_text(free)} of disk"

    def _lack(self, memory: int) -> str:
        has, run = f"of memory, and {self.runner.engine.device} has {size_text(memory)}", self.runner
        if self.least > memory:
            hint = "a smaller model, an optimizer with less state such as SGD, or FSDPEngine on several devices"
            return f"weights, optimizer and gradients alone need {size_text(self.least)} {has}\n    {hint}"
        micro_batch = run.train_set.micro_batch if run.train_set is not None else 1
        hint = f"reduce data.micro_batch (now {micro_batch}) or data.crop_size, or enable engine.amp or"
        return f"a step needs {size_text(self.peak)} {has}\n    {hint} engine.activation_checkpointing"


def make_plan(config: Config, world_size: int = 1, work_dir: str | Path | None = None) -> Plan:
    """Build a run without allocating its weights and predict its memory and disk.

    Args:
        config: The whole config.
        world_size: Number of devices that share a batch.
        work_dir: Run directory; overrides the config's.

    Raises:
        ConfigError: All problems at once.
        UsageError: When the config does not train.
    """
    import torch

    from segkernel.experiment import make_runner
    from segkernel.loading import catalog_of, make_model
    from segplug_training.predicted_memory import make_fake, predict_memory

    runner_config, engine = _with_engine(config, world_size)
    with torch.device("meta"):
        model = make_model(config, catalog_of(config), False)
    mode = make_fake(model, engine.device)
    runner = make_runner(runner_config, work_dir, model=model, pretrained=False)
    if runner.train_set is None or runner.optimizer is None:
        raise UsageError("--dry-run needs a training run: data.train or optim.optimizer is missing")
    batch = next(replace(runner.train_set, workers=0).train_batches())
    folder = Path(work_dir or config.get("work_dir") or Path("work_dirs") / config.name)
    return Plan(runner, predict_memory(runner, mode, batch), folder)


def _with_engine(config: Config, world_size: int) -> tuple[Config, Any]:
    """Return the config with its engine built: one that compiles nothing and connects to no other ranks."""
    from segkernel import build
    from segkernel.loading import catalog_of

    launched = {name: os.environ.pop(name) for name in LAUNCHED if name in os.environ}
    try:
        engine = build("engines", config.get("engine") or {}, path="engine", catalog=catalog_of(config))
    finally:
        os.environ.update(launched)
    engine.world_size = world_size
    for switch in ("compile", "smaller_batches"):
        if hasattr(engine, switch):
            setattr(engine, switch, None)
    if getattr(engine, "amp", None) is not None:  # a scaler would read values; both types take two bytes
        import torch

        engine.amp = torch.bfloat16
        engine.scaler = torch.amp.GradScaler(engine.device.type, enabled=False)
    changed = load_config({**config, "engine": engine})
    changed.name = config.name
    return changed, engine


# ---------------------------------------------------------------- tables


def parameter_table(runner: Runner) -> str:
    """Return a table of the parameters of each part of the model."""
    model, rows = runner.model, []
    for name, part in [*model.named_children(), ("all", model)]:
        own = list(part.parameters())
        if own:
            trained = sum(each.numel() for each in own if each.requires_grad)
            size = size_text(sum(each.nbytes for each in own))
            rows.append((name, len(own), f"{sum(each.numel() for each in own):,}", f"{trained:,}", size))
    return text_table(("part", "tensors", "parameters", "trained", "size"), rows)


def group_table(runner: Runner) -> str:
    """Return a table of the optimiser's groups: initial learning rate, weight decay and size."""
    optimizer, rows = runner.optimizer, []
    for number, group in enumerate(optimizer.param_groups if optimizer is not None else ()):
        count = sum(each.numel() for each in group["params"])
        rate, decay = group.get("initial_lr", group["lr"]), group.get("weight_decay", 0.0)
        rows.append((f"group {number}", f"{rate:.6g}", f"{decay:.6g}", len(group["params"]), f"{count:,}"))
    return text_table((type(optimizer).__name__, "lr", "weight decay", "tensors", "parameters"), rows)


def validations(runner: Runner) -> list[int]:
    """Return the iterations after which the run validates."""
    last, begin = runner.max_iterations, runner.val_begin
    schedule = runner.config.get("schedule") or {}
    interval = schedule.get("val_interval")
    if interval is None:
        return [last]
    unit = 1.0
    if schedule.get("epochs") is not None and runner.train_set is not None:
        unit = len(runner.train_set.dataset) / runner.batch_size
    passed = (count * interval * unit for count in range(1, int(last / (interval * unit)) + 1))
    due = [-int(-moment // 1) for moment in passed]
    return sorted({each for each in due if begin <= each <= last} | {last})


def saves(runner: Runner) -> list[int]:
    """Return the iterations after which the run saves, without those of a new best checkpoint."""
    from segkernel.hooks.checkpoint import UNVALIDATED

    last, found = runner.max_iterations, {runner.max_iterations}
    for hook in _checkpoint_hooks(runner):
        interval = hook.interval or (UNVALIDATED if runner.val_set is None else None)
        found |= set(range(interval, last + 1, interval)) if interval else set(validations(runner))
    return sorted(found)


def _checkpoint_hooks(runner: Runner) -> list[Any]:
    from segkernel.hooks.checkpoint import CheckpointHook

    return [hook for hook in runner.hooks.hooks if isinstance(hook, CheckpointHook)]


def _listed(iterations: list[int]) -> str:
    texts = [*map(str, iterations)]
    few = [*texts[:3], "...", texts[-1]] if len(texts) > 4 else texts
    return f"{len(iterations)} times, after iteration {', '.join(few)}"
