"""Time of one optimiser step on the processor: what channels-last, bfloat16 and kept memory bring.

    python benchmarks/train_step.py --steps 5

Each row is `CUDAEngine` with other options; the ratio is against a plain float32 torch loop over the same model and
batch, measured in the same process and in turn with it. Medians; kept memory concerns the whole process, so it is off
for all rows but those of a second process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from segkernel import build
from segkernel.inference import Preprocessor
from segkernel.sample import Batch, Targets
from segplug_training import cuda
from segplug_training.cuda import CUDAEngine

CLASSES = 11
MODELS = {
    "Fast-SCNN": {
        "backbone": {"type": "FastSCNN"},
        "decode_head": {"type": "DepthwiseSeparableFCNHead", "in_channels": 128, "channels": 128},
    },
    "ResNet-18 of half width, SegFormer head": {
        "backbone": {"type": "ResNetV1c", "depth": 18, "base_channels": 32, "stem_channels": 32},
        "decode_head": {"type": "SegformerHead", "in_channels": [32, 64, 128, 256], "in_index": [0, 1, 2, 3],
                        "channels": 64},
    },
}  # fmt: skip
ENGINES = {
    "float32": {"channels_last": False},
    "channels last": {},
    "bfloat16": {"amp": "bfloat16", "channels_last": False},
    "both": {"amp": "bfloat16"},
}


def make_model(name: str) -> torch.nn.Module:
    """Build one of the models."""
    parts = MODELS[name]
    head = {**parts["decode_head"], "num_classes": CLASSES, "norm_cfg": {"type": "BN"}}
    return build("segmentors", {"type": "EncoderDecoder", "backbone": parts["backbone"], "decode_head": head})


def make_batch() -> Batch:
    """Make eight random crops of 288 x 384 pixels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 288, 384), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (8, 288, 384), generator=generator, dtype=torch.uint8)
    return Batch(images, Targets({"seg": labels}), [(288, 384)] * 8, [{} for _ in range(8)])


def plain_step(name: str) -> Callable[[], object]:
    """Return a step as one writes it without any framework."""
    model, batch = make_model(name).train(), make_batch()
    optimizer, preprocessor = torch.optim.AdamW(model.parameters()), Preprocessor().train()

    def step() -> None:
        optimizer.zero_grad()
        losses = model.loss(*preprocessor(batch))
        sum(value for key, value in losses.items() if "loss" in key).backward()
        optimizer.step()

    return step


def engine_step(name: str, options: dict[str, object]) -> Callable[[], object]:
    """Return the engine's step."""
    model, batch, engine = make_model(name).train(), make_batch(), CUDAEngine("cpu", **options)
    engine.prepare_model(model, Preprocessor().train())
    engine.prepare_optimizer(torch.optim.AdamW(model.parameters()))
    return lambda: engine.train_step([batch])


def measure(steps: list[Callable[[], object]], count: int) -> list[float]:
    """Return the median milliseconds of each, run in turn."""
    times: list[list[float]] = [[] for _ in steps]
    for number in range(count + 1):
        for step, found in zip(steps, times):
            started = time.perf_counter()
            step()
            if number:  # the first warms up
                found.append((time.perf_counter() - started) * 1000)
    return [statistics.median(found) for found in times]


def main() -> None:
    """Print a table per process: without, then with kept memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    count = parser.parse_args().steps
    kept = os.environ.get("KEEP_FREED_MEMORY") == "1"
    if not kept:
        cuda.keep_freed_memory = lambda: None
    print(f"freed memory {'kept' if kept else 'given back'}; ms a step, and against the plain loop")
    print(f"{'model':42}{'plain':>8}" + "".join(f"{name:>20}" for name in ENGINES))
    for name in MODELS:
        steps = [plain_step(name), *(engine_step(name, options) for options in ENGINES.values())]
        plain, *found = measure(steps, count)
        print(f"{name:42}{plain:8.0f}" + "".join(f"{ms:11.0f} ({ms / plain:5.2f})" for ms in found), flush=True)
    if not kept:
        subprocess.run([sys.executable, *sys.argv], env={**os.environ, "KEEP_FREED_MEMORY": "1"}, check=True)


if __name__ == "__main__":
    main()
