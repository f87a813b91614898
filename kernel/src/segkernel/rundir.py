"""The run directory: where it is, and who may write to it.

work_dirs/NAME/TIME/
    log.txt  checkpoints/  and files written by hooks
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


def resume_point(name: str, work_dir: Directory, resume: str | Path | bool) -> tuple[Directory, Path | None]:
    """Return the run directory, None for a new one, and the checkpoint to resume from, None to start from scratch.

    After a restart by torchrun or SLURM, the run resumes from the last checkpoint of this launch, in its directory.

    Args:
        name: Name of the run; without ``work_dir`` its newest directory is used.
        work_dir: Directory that the run writes to.
        resume: A checkpoint; True takes the newest.

    Raises:
        CheckpointError: When ``resume`` is true and there is no checkpoint.
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


def trained(folder: Path) -> Path:
    """Return the best checkpoint of a run (by mIoU, if several metrics are watched), else, with a warning, its last.

    Raises:
        CheckpointError: When it has none, or several best ones.
    """
    last, best = (sorted(folder.glob(f"checkpoints/{kind}_*.pt")) for kind in ("iter", "best"))
    best = [path for path in best if path.name.startswith("best_mIoU_iter_")] or best
    if len(best) > 1:
        raise CheckpointError(f"{folder}: has several best checkpoints, name one: {', '.join(map(str, best))}")
    if not (best or last):
        raise CheckpointError(f"{folder}: no checkpoint in {folder / 'checkpoints'}, as a run writes them")
    path, kind = (best or last)[-1], "best" if best else "last"
    log.log(logging.INFO if best else logging.WARNING, "%s: taking its %s checkpoint, %s", folder, kind, path.name)
    return path


def _was_left_by_this_launch(folder: Path) -> bool:
    """Whether the ranks were restarted and an earlier start of this launch wrote to the directory."""
    restarted = any(os.environ.get(f"{by}_RESTART_COUNT", "0") != "0" for by in ("TORCHELASTIC", "SLURM"))
    return restarted and (folder / ".launch").exists() and (folder / ".launch").read_text() == _launch()


def _launch() -> str:
    return os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("SLURM_JOB_ID", "")


def claim(run: Runner, opened: ExitStack, directory: Path | None, resuming: bool) -> Path:
    """Create the run directory with its log, and keep other runs out until ``opened`` closes.

    Args:
        run: The run that writes to it.
        opened: Receives what has to be closed.
        directory: None creates a new one, ``work_dirs/NAME/TIME``.
        resuming: Whether the run in the directory continues.

    Raises:
        UsageError: When it contains another run, which this one would overwrite, or one that is still running.
        SegKernelError: When it is not writable.
    """
    try:
        path = directory or _new(run.name)
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        opened.enter_context(_locked(path))
        if run.train_set is not None and not resuming and any(path.glob("checkpoints/iter_*.pt")):
            raise UsageError(f"{path}: already contains a run; continue it with --resume, or choose another --work-dir")
        for leftover in path.glob("checkpoints/.*.tmp") if run.train_set is not None else ():
            leftover.unlink(missing_ok=True)  # of a run killed while saving: as the lock was free, it has exited
        (path / ".launch").write_text(_launch())
        handler = _LogFile(path / "log.txt", encoding="utf-8")
    except OSError as error:
        raise SegKernelError(f"{directory or ROOT}: cannot write the run directory: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("segkernel")
    root.addHandler(handler)
    opened.callback(handler.close)
    opened.callback(root.removeHandler, handler)
    log.info("run directory: %s", path)
    return path


def _new(name: str) -> Path:
    """Create a new directory, even when another run starts in the same second."""
    time_of_day = time.strftime("%Y%m%d_%H%M%S")
    for count in itertools.count(1):
        path = Path(ROOT) / name / (time_of_day if count == 1 else f"{time_of_day}_{count}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            break
    return path


_HELD: set[Path] = set()
"""Directories that runs of this process write to: a POSIX lock only keeps out other processes."""


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
            if error.errno in (errno.EACCES, errno.EAGAIN):  # other errors: no support for locks
                raise UsageError(message) from None
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)  # a full disk is detected here
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
    """Return plain dicts and lists, without the places that a loaded config carries."""
    return json.loads(json.dumps(value, default=str))
