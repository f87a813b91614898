"""torchrun with processes that are forked: ``launch.py 2 run CONFIG ...``, or ``launch.py 2 SCRIPT.py ...``.

The agent, which starts, watches and ends the ranks, is torchrun's own. What they import is imported once.
"""

from __future__ import annotations

import os
import runpy
import sys

import torch._dynamo  # noqa: F401  what an optimiser imports
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import segkernel.experiment  # noqa: F401
from segkernel.cli import main


def rank(*arguments: str) -> None:
    """Be one of the processes."""
    if arguments[0].endswith(".py"):
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        main(arguments)


if __name__ == "__main__":
    count, *arguments = sys.argv[1:]
    size = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": int(count), "start_method": "fork"}
    meeting = {"run_id": str(os.getpid()), "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    alone = LaunchConfig(**size, **meeting, max_restarts=0)
    elastic_launch(alone, rank)(*arguments)
