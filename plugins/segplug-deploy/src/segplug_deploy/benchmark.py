"""``seg-kernel benchmark``: latency, throughput and memory of models and exported files."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from segkernel.cli import DEVICE, SIZE, TRUST
from segkernel.errors import SegKernelError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from segkernel.predictor import Predictor

COLUMNS = {"model": "", "batch": "d", "p50 ms": ".1f", "p90 ms": ".1f", "p99 ms": ".1f", "labels ms": ".1f",
           "images/s": ".2f", "MB": ".0f"}  # fmt: skip
"""Of the table, with their formats."""


@click.command("benchmark")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", help="Configs, checkpoints, exported files.")
@click.option("--size", type=SIZE, default="512x512", help="Size of the images. [default: 512x512]")
@click.option("--batch", default="1", metavar="N,N", help="Batch sizes. [default: 1]")
@click.option("--repeats", type=click.IntRange(1), default=30, help="Passes at most for each batch size. [default: 30]")
@click.option("--seconds", type=click.FloatRange(0), default=10.0, help="Time at most for each. [default: 10]")
@click.option("--threads", type=click.IntRange(1), help="Of the CPU. [default: torch's]")
@DEVICE
@click.option(
    "--exporter", metavar="SPEC", help="For exported files, such as '{type: ONNXExporter, providers: [...]}'."
)
@click.option("--json", "target", metavar="FILE", help="Write all values as JSON.")
@TRUST
def command(models: tuple[str, ...], batch: str, exporter: str | None, target: str | None, **options: Any) -> None:
    """Measure MODEL: the forward pass alone, and from uint8 images to labels.

    Each model runs in a process of its own. MB is its peak memory; on a GPU, what torch
    allocated there.

    \b
    Examples:
      seg-kernel benchmark segformer_mit-b0_8xb2-160k_ade20k-512x512
      seg-kernel benchmark best.pt model.onnx model.xml --batch 1,4 --json latency.json
    """
    from segkernel.config.text import read_text
    from segkernel.errors import ConfigError, Problem

    problems: list[Problem] = []
    spec = read_text(exporter, "--exporter", problems) if exporter else None
    if problems:
        raise ConfigError(problems)
    rows = benchmark(models, batches=_batches(batch), exporter=spec, **options)
    click.echo(table(rows))
    if target:
        Path(target).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    if all("error" in row for row in rows):
        raise SegKernelError("no model could be measured")


def _batches(text: str) -> list[int]:
    if not all(part.strip().isdigit() and int(part) for part in text.split(",")):
        raise click.BadParameter(f"{text!r} is not a list of batch sizes, such as 1,4,16")
    return [int(part) for part in text.split(",")]


def benchmark(
    models: Sequence[str | Path],
    *,
    size: tuple[int, int] = (512, 512),
    batches: Sequence[int] = (1,),
    repeats: int = 30,
    seconds: float = 10.0,
    threads: int | None = None,
    device: str | None = None,
    exporter: Any = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Return one row for each model and batch size, measured in a process for each model.

    A row has ``model``, ``batch``, ``p50 ms``, ``p90 ms``, ``p99 ms`` of a forward pass, ``labels ms``, the median from
    normalised images to labels, ``images/s`` of the latter and ``MB``; or ``error``.

    Args:
        models: What `segkernel.Predictor` takes, by name; one without weights is measured with random ones.
        size: (height, width) of the images in pixels.
        batches: Batch sizes.
        repeats: Passes at most for each batch size.
        seconds: Time at most for each batch size.
        threads: Of the CPU; None is torch's choice.
        device: None is the best.
        exporter: As in `segkernel.Predictor`.
        trust: As in `segkernel.Predictor`.
    """
    rows = []
    for model in map(str, models):
        given = {"device": device, "exporter": exporter if _is_exported(model) else None, "trust": trust}
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            try:
                rows += executor.submit(_measure, model, size, batches, repeats, seconds, threads, given).result()
            except SegKernelError as error:
                rows.append({"model": model, "error": str(error)})
            except Exception as error:  # also of a process that was killed for its memory
                rows.append({"model": model, "error": str(error) or type(error).__name__})
    return rows


def _is_exported(model: str) -> bool:
    from segkernel import Catalog

    suffixes = {getattr(kind, "suffix", None) for _, kind in Catalog.discover().load_all("exporters")}
    return Path(model).suffix in suffixes


def _measure(
    model: str,
    size: tuple[int, int],
    batches: Sequence[int],
    repeats: int,
    seconds: float,
    threads: int | None,
    given: dict[str, Any],
) -> list[dict[str, Any]]:
    """Measure one model; runs in a process of its own."""
    import torch

    from segkernel.predictor import Predictor
    from segplug_deploy.inference import optimize_for_inference

    if threads:
        torch.set_num_threads(threads)
    try:
        predictor = Predictor(model, random_weights=True, **given)
    except SegKernelError as error:  # their constructors take other arguments, so they cannot be sent back
        raise UsageError(str(error)) from None
    optimized = optimize_for_inference(predictor.model, predictor.device)
    rows = []
    for batch in batches:
        images = torch.randn(batch, predictor.preprocessor.mean.shape[1], *size, device=predictor.device)
        rows.append({"model": model, **_row(predictor, optimized, images, repeats, seconds)})
    return rows


def _row(predictor: Predictor, optimized: Any, images: Tensor, repeats: int, seconds: float) -> dict[str, Any]:
    import torch

    device, (batch, channels, *size) = predictor.device, images.shape
    pixels = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
    samples = [predictor.prepare(pixels) for _ in range(batch)]
    forward = _times(lambda: optimized.predict(images), repeats, seconds, device)
    whole = _percentile(_times(lambda: predictor.predict_samples(samples), repeats, seconds, device), 50)
    row = {"batch": batch, "size": size, "device": str(device), "threads": torch.get_num_threads()}
    row |= {f"p{share} ms": _percentile(forward, share) for share in (50, 90, 99)}
    return {**row, "labels ms": whole, "images/s": 1000 * batch / whole, "passes": len(forward), "MB": _peak_mb(device)}


def _times(run: Any, repeats: int, seconds: float, device: Any) -> list[float]:
    """Return the milliseconds of several passes, after one that is not counted."""
    import torch

    times: list[float] = []
    with torch.inference_mode():
        for count in range(repeats + 1):
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if count:
                times.append(1000 * (time.perf_counter() - start))
            if sum(times) > 1000 * seconds:
                break
    return sorted(times)


def _percentile(times: Sequence[float], share: int) -> float:
    """Return the nearest-rank percentile of sorted times."""
    return times[max(-(-len(times) * share // 100), 1) - 1]


def _peak_mb(device: Any) -> float:
    """Return the peak memory of this process, or of the GPU, in MB."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows of `benchmark` as aligned lines."""
    names = [_short(row["model"]) for row in rows]
    width = max(len("model"), *map(len, names))
    lines = [f"{'model':<{width}}" + "".join(f"{name:>11}" for name in list(COLUMNS)[1:])]
    for name, row in zip(names, rows, strict=True):
        if "error" in row:
            lines.append(f"{name:<{width}}  {row['error'].splitlines()[0]}")
        else:
            values = (format(row[column], kind) for column, kind in list(COLUMNS.items())[1:])
            lines.append(f"{name:<{width}}" + "".join(f"{value:>11}" for value in values))
    return "\n".join(lines)


def _short(model: str) -> str:
    return Path(model).name or model
