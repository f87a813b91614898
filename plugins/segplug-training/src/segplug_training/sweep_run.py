"""One run of a sweep, in a separate process: ``seg-kernel sweep SPEC.json --one``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkernel.files import replacing

if TYPE_CHECKING:
    from segkernel import Runner

RESULT = "result.json"


def perform(path: Path) -> None:
    """Train, test and write ``result.json`` into the run directory, atomically, as the last step."""
    from segkernel.experiment import run

    spec = json.loads(path.read_text("utf-8"))
    folder = Path(spec["work_dir"])
    started = time.perf_counter()
    resume = any(folder.glob("checkpoints/iter_*.pt"))
    runner = run(spec["config"], spec["overrides"], work_dir=folder, resume=resume)
    seconds = time.perf_counter() - started
    metrics = {name: float(value) for name, value in runner.metrics.items()} or _logged(folder)
    cost = {"seconds": seconds, "memory_MB": _memory(runner)}
    result = {"digest": spec["digest"], "metrics": metrics, "cost": cost | (measure(runner) if spec["measure"] else {})}
    with replacing(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(result, indent=2), "utf-8")


def _logged(folder: Path) -> dict[str, float]:
    """Return the last metrics in the log, for a run that was interrupted after its last checkpoint."""
    from segplug_training.plot import read_curves

    points = read_curves(folder).points
    return {key: values[-1][1] for kind in ("val", "test") for (each, key), values in points.items() if each == kind}


def measure(runner: Runner) -> dict[str, float]:
    """Return millions of parameters, GFLOPs, and images predicted per second at crop size and batch size 1."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, device = runner.model.eval(), runner.engine.device
    size = (runner.config.get("data") or {}).get("crop_size")
    batch = next(iter((runner.test_set or runner.val_set or runner.train_set).eval_batches()))  # type: ignore[union-attr]
    image = torch.randn(1, *batch.images.shape[1:2], *(size or batch.images.shape[2:]), device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:  # torch 2.4 counts nothing in inference mode
        model(image)
    with torch.inference_mode():
        rate = _rate(lambda: runner.engine.predict(image), device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"params_M": parameters / 1e6, "GFLOPs": counter.get_total_flops() / 1e9, "images_per_s": rate}


def _rate(predict: Callable[[], object], device: Any, seconds: float = 2.0) -> float:
    import torch

    for _ in range(3):
        predict()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        predict()
        if device.type == "cuda":
            torch.cuda.synchronize()
        count += 1
    return count / (time.perf_counter() - start)


def _memory(runner: Runner) -> float:
    """Return the peak memory of the process, or of its GPU, in MB."""
    import torch

    if runner.engine.device.type == "cuda":
        return torch.cuda.max_memory_allocated(runner.engine.device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
