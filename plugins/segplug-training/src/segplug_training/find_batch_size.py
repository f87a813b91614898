"""``seg-kernel find-batch-size``: the largest micro-batch that fits into memory, and the speed of each size.

seg-kernel find-batch-size my.yaml --memory 24GiB --out sizes.png
"""

from __future__ import annotations

import gc
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segkernel.cli import CONFIG, OVERRIDES
from segkernel.errors import UsageError
from segplug_training.text_table import read_size, text_table

if TYPE_CHECKING:
    import torch

    from segkernel import Runner

log = logging.getLogger(__name__)

_TOO_FEW = "Expected more than 1 value per channel"
"""torch's message when batch norm gets a single value per channel, as after global pooling of one image."""


@click.command("find-batch-size")
@CONFIG
@OVERRIDES
@click.option("--most", default=256, show_default=True, type=click.IntRange(1), help="Largest size to try.")
@click.option("--memory", metavar="SIZE", help="Memory limit, such as 24GiB. [default: free memory]")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Draw samples per second over the size.")
def command(config: str, overrides: tuple[str, ...], most: int, memory: str | None, out: Path | None) -> None:
    """Run training steps of CONFIG with larger and larger micro-batches, until memory runs out.

    Nothing of the training is kept, and no weights are loaded: memory and speed do not depend on them.

    \b
    Examples:
      seg-kernel find-batch-size my.yaml
      seg-kernel find-batch-size my.yaml --memory 8GiB
    """
    from segkernel import load_config
    from segplug_training.plot import new_figure, write_figure
    from segplug_training.trial import make_trial

    figure = new_figure((6.4, 4.2)) if out else None
    with tempfile.TemporaryDirectory() as folder:
        changed = load_config(config, [*overrides, "data.micro_batch=1"])
        runner = make_trial(changed, Path(folder) / "run", 1, workers=0, weights=False)
        trials = search(runner, most, read_size(memory) if memory else None)
    rows = [(each.size, "yes" if each.fits else "no", f"{each.rate:.4g}" if each.fits else "-") for each in trials]
    click.echo(text_table(("micro-batch", "fits", "samples/s"), rows))
    good = [each for each in trials if each.fits]
    if not good:
        least = f"a micro-batch of {trials[0].size} does not fit"
        hint = "reduce data.crop_size, or enable engine.amp or engine.activation_checkpointing"
        raise UsageError(f"{least}: {hint}")
    fastest = max(good, key=lambda each: each.rate)
    largest = "the largest that was tried (--most)" if len(good) == len(trials) else "the largest that fits"
    click.echo(f"{largest}: data.micro_batch={good[-1].size}; the fastest: data.micro_batch={fastest.size}")
    if figure is not None and out is not None:
        axes = figure.add_subplot()
        axes.plot([each.size for each in good], [each.rate for each in good], marker="o")
        for each in (each for each in trials if not each.fits):
            axes.axvline(each.size, color="C3", linestyle=":")
        axes.set(xlabel="micro-batch", ylabel="samples per second", xscale="log")
        axes.grid(alpha=0.3)
        write_figure(figure, out)
        click.echo(f"wrote {out}")


@dataclass
class Trial:
    """A trial of a micro-batch size.

    Args:
        size: Samples in the micro-batch.
        fits: Whether a step fits into memory.
        seconds: Duration of the step; 0 if it does not fit.
    """

    size: int
    fits: bool
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.size / self.seconds if self.seconds else 0.0


def search(runner: Runner, most: int, memory: int | None = None) -> list[Trial]:
    """Return trials by size: doubled until one does not fit; on a GPU then bisected, to an eighth.

    Args:
        runner: A run to make steps of; they train its model.
        most: Largest size to try.
        memory: Memory limit in bytes; None is the free memory.

    The smallest size is 1, or 2 for a model with batch norm of one value per channel and sample.

    Raises:
        UsageError: When ``most`` is below the smallest size.
    """
    runner.model.train()
    runner.preprocessor.train()
    if hasattr(runner.engine, "smaller_batches"):
        runner.engine.smaller_batches = None  # which would hide the error looked for
    trials: dict[int, Trial] = {}
    refine = runner.engine.device.type == "cuda"  # on the CPU, oneDNN may keep failing after a failed allocation
    size, good, bad = 1, 0, most + 1
    with limited(runner.engine.device, memory):
        while size < bad and size <= most:
            try:
                trials[size] = _try(runner, size)
            except (ValueError, RuntimeError) as error:  # compiled code raises the second
                if size > 1 or _TOO_FEW not in str(error):
                    raise
                if most == 1:
                    raise UsageError("batch norm of single values needs a micro-batch of 2 or more: --most 2") from None
                log.info("micro-batch 1: batch norm of single values needs 2 or more")
                size, good = 2, 1
                continue
            log.info("micro-batch %d: %s", size, f"{trials[size].rate:.4g} samples/s" if trials[size].fits else "no")
            good, bad = (size, bad) if trials[size].fits else (good, size)
            if bad <= most and not refine:
                break
            double = min(2 * good, most) if bad > most else 0
            size = double if double > good else good + (bad - good) // 2
            if size == good or (bad <= most and bad - good <= max(good // 8, 1)):
                break
    return [trials[size] for size in sorted(trials)]


def _try(runner: Runner, size: int) -> Trial:
    from segplug_training.smaller_batches import is_out_of_memory

    batch = next(replace(runner.train_set, micro_batch=size, workers=0).train_batches())  # type: ignore[type-var, union-attr]
    try:
        runner.engine.train_step([batch])  # allocates the optimiser's state
        started = time.perf_counter()
        runner.engine.train_step([batch])
        _wait(runner.engine.device)
        return Trial(size, True, time.perf_counter() - started)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Tensors held by the frames of the error are released only here.
    for parameter in runner.model.parameters():
        parameter.grad = None
    gc.collect()
    _give_back(runner.engine.device)
    return Trial(size, False)


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _give_back(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def limited(device: torch.device, memory: int | None) -> Iterator[None]:
    """Limit the memory of this process to so many more bytes: on the CPU it would be killed otherwise."""
    import torch

    from segplug_training.free_memory import data_size, free_memory

    if device.type == "cuda":
        if memory is not None:
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(memory / total, 1.0), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    memory = free_memory(device) if memory is None else memory
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if memory is not None:
        limit = data_size() + memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit if before[1] < 0 else min(limit, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
