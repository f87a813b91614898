"""torchrun with two processes that are forked: ``launch.py run CONFIG ...``, or ``launch.py SCRIPT.py ...``.

The agent, which starts, watches and ends the ranks, is torchrun's own. What they import is imported once.
"""

from __future__ import annotations

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
    alone = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork", max_restarts=0)
    elastic_launch(alone, rank)(*sys.argv[1:])
