"""Processor time of short commands, compared with importing click, or torch, alone.

    python benchmarks/cli_startup.py [RUNS]

Runs are interleaved, so that a busy machine slows down all commands equally. Times are medians over whole processes,
with their start and exit. ``config check`` is given a valid config, and one with an unknown argument.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CALL = "import sys; from segkernel.cli import main; main(sys.argv[1:])"
SOURCE = "segformer_mit-b0_8xb2-160k_ade20k-512x512"
COMMANDS = {
    "import click": [sys.executable, "-c", "import click"],
    "seg-kernel --help": [sys.executable, "-c", CALL, "--help"],
    "seg-kernel plugins": [sys.executable, "-c", CALL, "plugins"],
    "config show": [sys.executable, "-c", CALL, "config", "show", SOURCE],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch's compiler": [sys.executable, "-c", "import torch._dynamo"],
    "config check, refused": [sys.executable, "-c", CALL, "config", "check", "wrong.yaml"],
    "config check, valid": [sys.executable, "-c", CALL, "config", "check", SOURCE],
}


def seconds(command: list[str], folder: str) -> float:
    """Return the processor time of a process in seconds, including its start and exit."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(runs: int = 20) -> None:
    """Print the medians."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "wrong.yaml").write_text(f"_base_: {SOURCE}\nmodel: {{backbone: {{chanels: 3}}}}\n", "utf-8")
        for _ in range(runs + 1):
            for name, command in COMMANDS.items():
                times[name].append(seconds(command, folder))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first run fills the caches
    for name, value in medians.items():
        print(f"{name:24} {1000 * value:6.0f} ms   {value / medians['import click']:.2f} x")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
