"""``seg-kernel replay``: reproduces the batch of a step that went wrong.

seg-kernel replay work_dirs/roads/20261129_120000 --out images
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from segkernel import Runner
    from segkernel.sample import Batch
    from segplug_training.batch_record import BatchRecord


@click.command()
@click.argument(
    "source",
    metavar="RUN",
    type=click.Path(exists=True, path_type=Path),
    help="A run directory, or the file of one recorded batch.",
)
@click.option("--weights", metavar="CHECKPOINT", help="Compute the losses with these weights.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Write image and labels of each sample.")
@click.option("--device", metavar="NAME", default="cpu", show_default=True, help="Device to compute losses on.")
def command(source: Path, weights: str | None, out: Path | None, device: str) -> None:
    """Reproduce the batch of a loss that was not finite or a spike, and describe its samples.

    RUN is a run directory, of which the newest record is used, or a file of its folder "replay". The samples are those
    of the run, crops and augmentation included; if they differ, the command fails.

    \b
    Examples:
      seg-kernel replay work_dirs/NAME/TIME
    """
    from segplug_training.batch_record import BatchRecord

    record = BatchRecord.load(source)
    runner = make_runner(record, device)
    batches = record.rebuild(runner.train_set)  # type: ignore[arg-type]
    checked = "the same values as in the run" if record.digest else "the same names as in the run"
    click.echo(f"iteration {record.iteration}, rank {record.rank}: loss {record.loss}; {checked}")
    for index, batch in enumerate(batches):
        for line in describe(batch, runner.labels.classes):
            click.echo(line)
        if weights:
            terms = losses(runner, batch, weights)
            click.echo("  ".join(f"{name} {value:.6g}" for name, value in terms.items()))
        if out is not None:
            _write(batch, runner.labels.palette, out, index)
    if out is not None:
        click.echo(f"wrote {out}")


def make_runner(record: BatchRecord, device: str = "cpu") -> Runner:
    """Return a runner with the recorded run's data, in a single process; nothing is written.

    Raises:
        DataError: When the run was built from objects and has no config.
    """
    from segkernel import load_config
    from segkernel.errors import DataError
    from segkernel.experiment import make_runner

    if not record.config:
        raise DataError("the run had no config; give its own loader to BatchRecord.load(PATH).rebuild(loader)")
    data, optim = record.config.get("data") or {}, record.config.get("optim") or {}
    changed: dict[str, Any] = {
        **record.config,
        "data": {**data, "workers": 0, "micro_batch": record.micro_batch},
        "optim": {**optim, "batch_size": record.micro_batch * len(record.names)},
        "engine": {"type": "LocalEngine", "device": device},
        "seed": record.seed,
        "hooks": [],
        "load_from": None,
    }
    return make_runner(load_config(changed), pretrained=False)


def describe(batch: Batch, classes: Any) -> Iterator[str]:
    """Yield one line per sample: name, size, range and mean of the image, classes of its labels."""
    for index, meta in enumerate(batch.meta):
        height, width = batch.sizes[index]
        image = batch.images[index, :, :height, :width].float()
        text = f"{meta.get('path', meta.get('name'))}  {height} x {width}"
        text += f"  values {image.min():.4g} to {image.max():.4g}, mean {image.mean():.4g}"
        if "seg" in batch.targets and batch.targets["seg"].ndim == 3:
            ids = batch.targets["seg"][index, :height, :width].unique().tolist()
            text += "  " + ", ".join(str(classes[each]) if each < len(classes) else f"({each})" for each in ids)
        yield text


def losses(runner: Runner, batch: Batch, weights: str) -> dict[str, float]:
    """Return the training losses of a batch by name, with a checkpoint's trained weights, not their average."""
    import torch

    from segkernel import checkpoint
    from segkernel.weights import load_into
    from segplug_training.ema import SOURCE

    state = checkpoint.load(weights)
    load_into(runner.model, {**state, "state_dict": state.get(SOURCE, state["state_dict"])}, "strict")
    runner.model.train()
    runner.preprocessor.train()
    with torch.no_grad():
        images, targets = runner.preprocessor(batch.to(runner.engine.device))
        return {name: float(value.mean()) for name, value in runner.model.loss(images, targets).items()}


def _write(batch: Batch, palette: Any, folder: Path, number: int) -> None:
    import numpy as np
    from PIL import Image

    from segplug_training.tensorboard import painted, shown

    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(batch)):
        parts = [shown(batch.images[index].permute(1, 2, 0).numpy())]
        if "seg" in batch.targets:
            parts.append(painted(batch.targets["seg"][index].numpy(), palette))
        Image.fromarray(np.concatenate(parts, axis=1)).save(folder / f"{number}_{index}.png")
