"""Startup time of ``seg-kernel --help`` and ``plugins``, compared with importing click alone.

    python benchmarks/cli_startup.py [RUNS]

Runs are interleaved, so that a busy machine slows down all commands equally. Times are medians over whole processes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

CALL = "import sys; from segkernel.cli import main; main(sys.argv[1:])"
COMMANDS = {
    "import click": [sys.executable, "-c", "import click"],
    "seg-kernel --help": [sys.executable, "-c", CALL, "--help"],
    "seg-kernel plugins": [sys.executable, "-c", CALL, "plugins"],
}


def seconds(command: list[str]) -> float:
    """Return the time of a process in seconds, including its start and exit."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main(runs: int = 20) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first run fills the caches
    for name, value in medians.items():
        print(f"{name:20} {1000 * value:6.0f} ms   {value / medians['import click']:.2f} x")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
