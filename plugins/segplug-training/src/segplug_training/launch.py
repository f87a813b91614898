"""``seg-kernel COMMAND --launch N``: runs a command as several processes on this machine, with torch's launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from segkernel.cli import cli
from segkernel.config import load_config
from segkernel.errors import ConfigError, UsageError
from segplug_training.cores import available_cores


@click.command("launch", context_settings={"allow_interspersed_args": False})
@click.argument("processes", type=click.IntRange(1), help="Number of processes on this machine.")
@click.argument(
    "arguments",
    nargs=-1,
    required=True,
    type=click.UNPROCESSED,
    help="The command and its arguments, without seg-kernel.",
)
@click.pass_context
def command(context: click.Context, processes: int, arguments: tuple[str, ...]) -> None:
    """Run the command ARGUMENTS as PROCESSES ranks of one run; the same as ``COMMAND --launch PROCESSES``.

    \b
    Examples:
      seg-kernel launch 2 run my.yaml
    """
    if Path(arguments[0]).suffix in (".yaml", ".yml"):
        raise UsageError(f"which command? for example: seg-kernel launch {processes} run {' '.join(arguments)}")
    _check(context, *arguments)

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    # torchrun's default of 1 thread per process leaves cores idle.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(available_cores() // processes, 1)))
    level = logging.getLevelName(logging.getLogger().level)
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the ranks report errors themselves
    for name in ("SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # not on Windows
            signal.signal(getattr(signal, name), _forward)
    try:
        main(["--standalone", f"--nproc-per-node={processes}", "-m", "segkernel", "--log-level", level, *arguments])
    except ChildFailedError as error:
        context.exit(max(1, error.get_first_failure()[1].exitcode))
    except SignalException as error:
        sys.exit(128 + error.sigval)


def _check(context: click.Context, name: str, *arguments: str) -> None:
    """Raise errors in the command, its arguments and a run's config once, instead of from every rank."""
    found = cli.get_command(context, name)
    if found is None or name != "run":
        return
    with found.make_context(name, list(arguments), parent=context) as parsed:
        config, overrides, resume = (parsed.params[key] for key in ("config", "overrides", "resume"))
    if "=" not in (resume or ""):  # else one of the overrides follows --resume
        from segkernel.experiment import check

        if problems := check(load_config(config, overrides)):
            raise ConfigError(problems)


def _forward(number: int, frame: Any) -> None:
    """Send a signal that torch's launcher does not handle to the ranks, which end as their `PreemptionHook` says."""
    for children in Path("/proc/self/task").glob("*/children"):
        for process in children.read_text().split():
            os.kill(int(process), number)
