"""The run directory: where it is, and who may write to it.

work_dirs/NAME/TIME/
    log.txt  checkpoints/  and what hooks write
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segkernel.catalog import Catalog
from segkernel.errors import CheckpointError, SegKernelError, UsageError

try:
    import fcntl
except ImportError:  # Windows, where run directories are not locked
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from segkernel.inference import Preprocessor
    from segkernel.labels import Labels
    from segkernel.runner import Runner

log = logging.getLogger(__name__)
ROOT = "work_dirs"
Directory = str | Path | None


def go_on_from(name: str, work_dir: Directory, resume: str | Path | bool) -> tuple[Directory, Path | None]:
    """Return the run directory, None for a new one, and the checkpoint to go on from, None for the start.

    Where torchrun has started the ranks again, or SLURM the job, they go on in the directory of this launch, from its
    last checkpoint.

    Args:
        name: Of the run; without ``work_dir`` the newest of this name counts.
        work_dir: Where it writes.
        resume: A checkpoint; True takes the newest.

    Raises:
        CheckpointError: When there is none.
    """
    given = None if isinstance(resume, bool) else Path(resume)
    if work_dir is None and given and given.parent.name == "checkpoints":
        work_dir = given.parent.parent
    folders = [Path(str(work_dir))] if work_dir else sorted((Path(ROOT) / name).glob("*"), reverse=True)
    for folder in [*filter(_was_left_by_this_launch, folders), *(folders if resume is True else ())]:
        if found := sorted(folder.glob("checkpoints/iter_*.pt")):
            return folder, found[-1]
    if resume is True:
        raise CheckpointError(f"{work_dir or Path(ROOT) / name}: no checkpoint to resume from; name one: --resume FILE")
    return work_dir, given


def _was_left_by_this_launch(folder: Path) -> bool:
    """Whether the ranks were started again, and wrote to a directory the time before."""
    restarted = any(os.environ.get(f"{by}_RESTART_COUNT", "0") != "0" for by in ("TORCHELASTIC", "SLURM"))
    return restarted and (folder / ".launch").exists() and (folder / ".launch").read_text() == _launch()


def _launch() -> str:
    return os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("SLURM_JOB_ID", "")


def take(run: Runner, opened: ExitStack, wanted: Path | None, resuming: bool) -> Path:
    """Create the run directory with its log, and keep other runs out until ``opened`` closes.

    Args:
        run: Its name and what it was started with.
        opened: Gets what has to be closed.
        wanted: The directory; None makes a new one, ``work_dirs/NAME/TIME``.
        resuming: Whether the run that is there goes on.

    Raises:
        UsageError: When it holds another run, which this one would overwrite, or one that is still running.
        SegKernelError: When it cannot be written.
    """
    try:
        path = wanted or _new(run.name)
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        opened.enter_context(_locked(path))
        if run.train_set is not None and not resuming and any(path.glob("checkpoints/iter_*.pt")):
            raise UsageError(f"{path}: holds a run already; go on with --resume, or give another --work-dir")
        for leftover in path.glob("checkpoints/.*.tmp") if run.train_set is not None else ():
            leftover.unlink(missing_ok=True)  # of a run that was killed while it saved: the lock says that it is over
        (path / ".launch").write_text(_launch())
        handler = _LogFile(path / "log.txt", encoding="utf-8")
    except OSError as error:
        raise SegKernelError(f"{wanted or ROOT}: cannot write the run directory: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("segkernel")
    root.addHandler(handler)
    opened.callback(handler.close)
    opened.callback(root.removeHandler, handler)
    log.info("run directory: %s", path)
    return path


def _new(name: str) -> Path:
    """Make a directory that was not there, even when another run starts in the same second."""
    time_of_day = time.strftime("%Y%m%d_%H%M%S")
    for count in itertools.count(1):
        path = Path(ROOT) / name / (time_of_day if count == 1 else f"{time_of_day}_{count}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            break
    return path


_HELD: set[Path] = set()
"""Directories that runs of this process write to: a POSIX lock keeps out other processes only."""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the directory's lock; the operating system releases it when the process exits, even by a crash."""
    message = f"{path}: is in use by another run; choose another --work-dir, stop that run, or call close()"
    own = path.resolve()
    if own in _HELD:  # opening and closing the file again would release its lock
        raise UsageError(message)
    with (path / ".lock").open("a") as file:
        try:
            # A POSIX lock: unlike flock's it is not inherited by data-loader workers, which may outlive a killed run.
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # others are of a file system without locks
                raise UsageError(message) from None
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)  # a full disk is found out now
        _HELD.add(own)
        try:
            yield
        finally:
            _HELD.discard(own)


class _LogFile(logging.FileHandler):
    """Suppresses errors of its own: on a full disk, the next file that the run writes raises the error."""

    def handleError(self, record: logging.LogRecord) -> None: ...


def model_metadata(labels: Labels, config: Mapping[str, Any], preprocessor: Preprocessor) -> dict[str, Any]:
    """Return what is needed to use a model's weights or its exported file, as plain values."""
    return {
        "classes": list(labels.classes),
        "palette": [list(color) for color in labels.palette],
        "config": _plain(config),
        "preprocess": _plain(preprocessor.config()),
        "plugins": Catalog.discover().versions(),
    }


def metadata(run: Runner) -> dict[str, Any]:
    """Return the ``meta`` of a run's checkpoint."""
    return {
        **model_metadata(run.labels, run.config, run.preprocessor),
        "iteration": run.iteration,
        "torch": str(torch.__version__),
        "metrics": {name: float(value) for name, value in run.metrics.items()},
    }


def _plain(value: Any) -> Any:
    """Return plain dicts and lists: what was loaded remembers places, which a file need not."""
    return json.loads(json.dumps(value, default=str))
