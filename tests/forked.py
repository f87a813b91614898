"""Commands in processes of their own that are forked from one which has imported everything, most of their time.

process = Forked(["run", "my.yaml"], tmp_path)
assert process.wait(60) == 0, process.err()
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    CONTEXT.set_forkserver_preload(["torch._dynamo", "segkernel.experiment"])  # the first is what an optimiser imports


class Forked:
    """``seg-kernel ARGUMENTS``, or a script with its arguments, leading a process group of its own.

    Args:
        arguments: Of the command line, or the path of a Python script and its own.
        folder: Where it runs; what it prints is kept there, in ``stdout.txt`` and ``stderr.txt``.
        environment: Variables that are set for it.
        before: Called in the process before anything else; a function of a module.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], object] | None = None,
    ) -> None:
        self.folder = folder
        texts = [str(argument) for argument in arguments]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self._process = CONTEXT.Process(target=_command, args=(texts, folder, variables, before))
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        """Return the exit code, that of a signal negative; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = 300) -> int:
        """Wait for the end and return the exit code; a process that does not end is killed."""
        self._process.join(seconds)
        if self.poll() is None:
            self.kill()
            raise TimeoutError(f"it runs for more than {seconds} s: {self.err()[-3000:]}")
        return self.poll() or 0

    def kill(self) -> None:
        """Kill it and all that it has started."""
        if self.poll() is None:
            os.killpg(self.pid, 9)
            self._process.join()

    def out(self) -> str:
        """Return what it has printed."""
        return (self.folder / "stdout.txt").read_text()

    def err(self) -> str:
        """Return what it has printed of errors and log."""
        path = self.folder / "stderr.txt"
        return path.read_text() if path.exists() else ""


def _command(
    arguments: list[str], folder: Path, variables: Mapping[str, str], before: Callable[[], object] | None
) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # for what it starts itself, Python's own default
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell has started pytest aside
    os.chdir(folder)
    for name, number in (("stdout.txt", 1), ("stderr.txt", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(variables)
    if before is not None:
        before()
    sys.argv = list(arguments)
    if arguments[0].endswith(".py"):
        runpy.run_path(arguments[0], run_name="__main__")
        return
    from segkernel.cli import main

    main(arguments)
