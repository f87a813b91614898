"""Time and memory of one optimiser step, compared with plain torch loops over the same model.

    python benchmarks/train_step.py --device cuda
    python benchmarks/train_step.py --models fast_scnn --size 288x384 --batch 4 --device cpu

Two plain loops upsample the logits in full: one in float32 with torch's defaults, one with the fastest options
(bfloat16 autocast, channels last, TF32, `torch.compile`, fused optimiser). The other rows are `CUDAEngine` with its
options. Each row is a separate process; times are medians. Memory is the peak on the GPU, weights included, or on the
CPU what the steps add to the process, which in compiled rows includes the compiler.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from loss_memory import peak_memory

from segkernel.config import load_config
from segkernel.inference import Preprocessor
from segkernel.loading import make_model
from segkernel.nn import upsampled
from segkernel.sample import Batch, Targets
from segplug_training.cuda import CUDAEngine

RECIPES: dict[str, tuple[str, tuple[int, int], int]] = {
    "pspnet": ("pspnet_r50-d8_4xb2-40k_cityscapes-512x1024", (512, 1024), 4),
    "segformer": ("segformer_mit-b2_8xb2-160k_ade20k-512x512", (512, 512), 8),
    "mask2former": ("mask2former_r50_8xb2-160k_ade20k-512x512", (512, 512), 4),
    "fast_scnn": ("fast_scnn_8xb4-160k_cityscapes-512x1024", (512, 1024), 4),
}
"""For each model: the packaged config, height and width of a crop, crops per batch."""
FASTEST = {"amp": "bfloat16", "compile": True, "tf32": True, "cudnn_benchmark": True}
ENGINES: dict[str, Mapping[str, Any]] = {
    "engine, float32": {},
    "engine, bfloat16": {"amp": "bfloat16"},
    "engine, compiled": FASTEST,
}
KINDS = ("plain float32", "plain fastest", *ENGINES)


def make_batch(size: tuple[int, int], count: int, classes: int) -> Batch:
    """Make random crops, each with labels of up to ten classes in blocks of 64 x 64 pixels."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, *size), generator=draw, dtype=torch.uint8)
    present = torch.randint(0, classes, (count, 10), generator=draw)
    blocks = torch.randint(0, 10, (count, (size[0] + 63) // 64 * ((size[1] + 63) // 64)), generator=draw)
    labels = present.gather(1, blocks).view(count, (size[0] + 63) // 64, -1).to(torch.uint8)
    labels = labels.repeat_interleave(64, 1).repeat_interleave(64, 2)[:, : size[0], : size[1]].contiguous()
    return Batch(images, Targets({"seg": labels}), [size] * count, [{} for _ in range(count)])


def plain_step(model: Any, batch: Batch, device: torch.device, fastest: bool) -> Callable[[], object]:
    """Return an optimiser step in plain torch."""
    upsampled.SWITCH = "0"
    model, preprocessor, loss_of = model.to(device), Preprocessor().train().to(device), model.loss
    if fastest:
        model = model.to(memory_format=torch.channels_last)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        loss_of = torch.compile(model.loss)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fastest)

    def step() -> None:
        optimizer.zero_grad()
        images, targets = preprocessor(batch.to(device))
        if fastest:
            images = images.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=fastest):
            losses = loss_of(images, targets)
        sum(value for key, value in losses.items() if "loss" in key).backward()
        optimizer.step()

    return step


def engine_step(model: Any, batch: Batch, device: torch.device, options: Mapping[str, Any]) -> Callable[[], object]:
    """Return the engine's step."""
    engine = CUDAEngine(str(device), smaller_batches=False, **options)
    engine.prepare_model(model, Preprocessor().train())
    engine.prepare_optimizer(torch.optim.AdamW(model.parameters()))
    batches = engine.transfer(itertools.repeat(batch))
    return lambda: engine.train_step([next(batches)])


def measure(name: str, kind: str, size: tuple[int, int] | None, count: int | None, device: str, steps: int) -> dict:
    """Return the milliseconds and MB of a step; to be called in a fresh process."""
    recipe, usual_size, usual_count = RECIPES[name]
    config, place = load_config(recipe), torch.device(device)
    torch.manual_seed(0)
    model = make_model(config, pretrained=False).train()
    batch = make_batch(size or usual_size, count or usual_count, config["data"]["num_classes"])
    if place.type == "cuda":
        batch = batch.pin_memory()
    before = 0 if place.type == "cuda" else peak_memory(place)
    if kind in ENGINES:
        step = engine_step(model, batch, place, ENGINES[kind])
    else:
        step = plain_step(model, batch, place, kind == "plain fastest")
    times = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        step()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        times.append((time.perf_counter() - started) * 1000)
    return {"ms": statistics.median(times[2:]), "MB": peak_memory(place) - before}  # the first two warm up


def size_of(text: str) -> tuple[int, int]:
    """Read a size such as 512x1024."""
    height, width = map(int, text.split("x"))
    return height, width


def main() -> None:
    """Print a row for each kind of step of each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--size", type=size_of, metavar="HxW", help="size of the crops (default: the config's)")
    parser.add_argument("--batch", type=int, help="crops per step (default: the config's)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        shape = (given.size, given.batch, given.device, given.steps)
        print(json.dumps(measure(given.models[0], given.kinds[0], *shape)))
        return
    print(f"{'model':14}{'step':20}{'ms':>10}{'ratio':>8}{'MB':>10}{'ratio':>8}", flush=True)
    failed = False
    for name in given.models:
        first: dict[str, float] = {}
        for kind in given.kinds:
            command = [sys.executable, __file__, *sys.argv[1:], "--models", name, "--kinds", kind, "--here"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                failed = True
                print(f"{name:14}{kind:20} {done.stderr.strip().splitlines()[-1:]}", flush=True)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            first = first or found
            shares = {unit: found[unit] / max(first[unit], 1e-9) for unit in found}
            print(f"{name:14}{kind:20}{found['ms']:10.1f}{shares['ms']:8.2f}", end="")
            print(f"{found['MB']:10.0f}{shares['MB']:8.2f}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
