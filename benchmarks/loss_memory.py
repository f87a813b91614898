"""Memory and time of the cross-entropy of upsampled logits: in full, in tiles of rows, and on a GPU with Triton.

    python benchmarks/loss_memory.py --classes 150 --size 512 --stride 4 --batch 4

Prints, for the loss and its gradient, the peak memory above that of the logits and labels, and the shortest of three
times, each measured in a separate process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from segkernel.nn import upsample_cross_entropy, upsample_logits, upsampled


def in_full(logits: Tensor, target: Tensor) -> Tensor:
    """Upsample all logits first, as a plain training loop does."""
    return torch.nn.functional.cross_entropy(upsample_logits(logits, target.shape[1:]), target, ignore_index=255)


def in_tiles(logits: Tensor, target: Tensor) -> Tensor:
    """Upsample some rows at a time, whatever the number of logits."""
    upsampled.SWITCH = "1"
    return upsample_cross_entropy(logits, target).mean()


def by_triton(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the loss with Triton kernels."""
    from segplug_training import triton_loss

    triton_loss.register(logits.device)
    return in_tiles(logits, target)


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "in full": in_full,
    "in tiles": in_tiles,
    "by Triton": by_triton,  # on a GPU
}


def peak_memory(device: torch.device) -> float:
    """Return the peak of this process's memory so far, or of the GPU's, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(kind: str, classes: int, size: int, stride: int, batch: int, device: str) -> dict[str, float]:
    """Return the peak memory in MB and the seconds of one kind."""
    place = torch.device(device)
    logits = torch.randn(batch, classes, size // stride, size // stride, device=place, requires_grad=True)
    target = torch.randint(0, classes, (batch, size, size), device=place)
    corner = logits[:, :, :4, :4].detach().requires_grad_()
    KINDS[kind](corner, target[:, : 4 * stride, : 4 * stride]).backward()  # warm up: imports, compilation
    before, least = peak_memory(place), float("inf")
    for _ in range(3):
        started = time.perf_counter()
        KINDS[kind](logits, target).backward()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        least = min(least, time.perf_counter() - started)
    return {"MB": peak_memory(place) - before, "seconds": least}


def main() -> None:
    """Measure each kind and print its ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, usual in (("classes", 150), ("size", 512), ("stride", 4), ("batch", 4)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    kind = given.pop("kind")
    if kind:
        print(json.dumps(measure(kind, **given)))
        return
    on_gpu = torch.device(given["device"]).type == "cuda"
    print(f"{'':12}{'MB':>9}{'ratio':>7}{'seconds':>10}{'ratio':>7}")
    first: dict[str, float] = {}
    for kind in KINDS if on_gpu else list(KINDS)[:2]:
        command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        first = first or found
        shares = {name: found[name] / max(first[name], 1e-9) for name in found}
        row = f"{found['MB']:9.0f}{shares['MB']:7.2f}{found['seconds']:10.4f}{shares['seconds']:7.2f}"
        print(f"{kind:12}{row}", flush=True)


if __name__ == "__main__":
    main()
