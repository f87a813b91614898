"""Time and memory of a forward pass of every model family on the CPU.

    python benchmarks/cost.py [FAMILY ...] --size 512x512 --repeats 3

Each model is built and run in a separate process. GFLOP/s is compared with that of a ResNet-50 backbone in the same
process, which shows models that are slow for their number of operations. Memory is what the pass added to the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "zoo"))

from representatives import FAMILIES

COLUMNS = ("family", "model", "M params", "GFLOPs", "ms", "GFLOP/s", "x ResNet-50", "MB")


def measure(family: str, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Measure one family and return its row of the table; to be called in a fresh process."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segkernel import build
    from segkernel.config import load_config
    from segkernel.loading import make_model

    torch.manual_seed(0)
    image = torch.randn(1, 3, *size)

    def run(module: Any) -> tuple[float, float]:
        """Return the seconds and the floating-point operations of a pass."""
        with FlopCounterMode(display=False) as counter:
            module(image)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            module(image)
            times.append(time.perf_counter() - start)
        return statistics.median(times), counter.get_total_flops()

    entry = FAMILIES[family]
    config = load_config(
        f"{entry.model}_4xb2-20k_streetscenes", [*entry.classes, f"data.crop_size=[{size[0]},{size[1]}]"]
    )
    with torch.inference_mode():
        plain = build("backbones", {"type": "ResNet", "depth": 50}).eval()
        seconds, operations = run(plain)
        reference = operations / seconds
        model = make_model(config, pretrained=False).eval()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds, operations = run(model)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "family": family,
        "model": entry.model,
        "M params": f"{parameters / 1e6:.1f}",
        "GFLOPs": f"{operations / 1e9:.1f}",
        "ms": f"{1000 * seconds:.0f}",
        "GFLOP/s": f"{operations / seconds / 1e9:.0f}",
        "x ResNet-50": f"{operations / seconds / reference:.2f}",
        "MB": f"{(after - before) / 1024:.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="families of the zoo (default: all)")
    parser.add_argument("--size", default="512x512", metavar="HxW")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="measure one family in this process, print JSON")
    options = parser.parse_args()
    height, width = (int(length) for length in options.size.split("x"))
    unknown = set(options.families) - set(FAMILIES)
    if unknown:
        parser.error(f"unknown family: {', '.join(sorted(unknown))}; choose from {', '.join(FAMILIES)}")
    if options.here:
        print(json.dumps(measure(options.families[0], (height, width), options.repeats)))
        return
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- | --- " + "| ---: " * (len(COLUMNS) - 2) + "|", flush=True)
    for family in options.families or FAMILIES:
        command = [
            sys.executable,
            __file__,
            family,
            "--here",
            "--size",
            options.size,
            "--repeats",
            str(options.repeats),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {family} | {done.stderr.strip().splitlines()[-1]} |", flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        print("| " + " | ".join(row[column] for column in COLUMNS) + " |", flush=True)


if __name__ == "__main__":
    main()
