"""The run directory: where it is, and what describes a run besides its figures.

work_dirs/NAME/TIME/
    config.yaml  plugins.json  environment.json  log.txt  metrics.jsonl
    checkpoints/  pictures/  tensorboard/
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
from importlib import metadata as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkernel.catalog import Catalog
from segkernel.config.show import to_yaml
from segkernel.errors import CheckpointError, SegKernelError, UsageError

if TYPE_CHECKING:
    from segkernel.runner import Runner

ROOT = "work_dirs"


def new(name: str) -> Path:
    """Return a run directory that does not exist yet, ``work_dirs/NAME/TIME``; nothing is created."""
    path = Path(ROOT) / name / time.strftime("%Y%m%d_%H%M%S")
    count = 1
    while path.exists():
        count += 1
        path = path.with_name(f"{time.strftime('%Y%m%d_%H%M%S')}_{count}")
    return path


def latest_checkpoint(name: str, work_dir: str | Path | None = None) -> Path:
    """Return the newest checkpoint to resume from, of ``work_dir`` or of the newest run called ``name``.

    Raises:
        CheckpointError: When there is none.
    """
    folders = [Path(work_dir)] if work_dir else sorted((Path(ROOT) / name).glob("*"), reverse=True)
    for folder in folders:
        found = sorted((folder / "checkpoints").glob("iter_*.pt"))
        if found:
            return found[-1]
    where = work_dir or Path(ROOT) / name
    raise CheckpointError(f"{where}: no checkpoint to resume from; name one with --resume CHECKPOINT")


def write(run: Runner) -> None:
    """Create the directory and write what the run was started with.

    Raises:
        UsageError: When it holds another run, which this one would overwrite.
        SegKernelError: When it cannot be written.
    """
    if run.train_set is not None and not run.iteration and any(run.work_dir.glob("checkpoints/iter_*.pt")):
        raise UsageError(f"{run.work_dir}: holds a run already; go on with --resume, or give another --work-dir")
    try:
        (run.work_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        if run.train_set is not None or not (run.work_dir / "plugins.json").exists():  # a test changes no run's record
            _write_record(run)
        handler = _LogFile(run.work_dir / "log.txt", encoding="utf-8")
    except OSError as error:
        raise SegKernelError(f"{run.work_dir}: cannot write the run directory: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.set_name(str(run.work_dir))
    logging.getLogger("segkernel").addHandler(handler)


def _write_record(run: Runner) -> None:
    if run.config:
        (run.work_dir / "config.yaml").write_text(to_yaml(plain(run.config)), "utf-8")
    (run.work_dir / "plugins.json").write_text(json.dumps(plugin_versions(), indent=2), "utf-8")
    (run.work_dir / "environment.json").write_text(json.dumps(environment(run), indent=2), "utf-8")


class _LogFile(logging.FileHandler):
    """A log that does not complain of itself: where the disk is full, what the run writes next says so."""

    def handleError(self, record: logging.LogRecord) -> None: ...


def close_log(work_dir: Path) -> None:
    """Take the run's log file from the logger."""
    logger = logging.getLogger("segkernel")
    for handler in [handler for handler in logger.handlers if handler.get_name() == str(work_dir)]:
        logger.removeHandler(handler)
        handler.close()


def metadata(run: Runner) -> dict[str, Any]:
    """Return the ``meta`` of a checkpoint: what is needed to use the weights, as plain values."""
    import torch

    labels = run.dataset_labels
    return {
        "classes": list(labels.classes),
        "palette": [list(color) for color in labels.palette],
        "config": plain(run.config),
        "preprocess": plain(run.preprocessor.config()),
        "plugins": plugin_versions(),
        "iteration": run.iteration,
        "torch": str(torch.__version__),
        "metrics": {name: float(value) for name, value in run.metrics.items()},
    }


def plugin_versions() -> dict[str, str]:
    """Return the versions of the kernel and of every installed plugin."""
    rows = Catalog.discover().rows
    return dict(sorted({row.distribution: row.version for row in rows}.items()))


def environment(run: Runner) -> dict[str, Any]:
    """Return what the figures of a run may depend on."""
    import numpy
    import torch

    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "opencv": next(
            (_version(name) for name in ("opencv-python", "opencv-python-headless") if _version(name)), None
        ),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": str(run.engine.device),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seed": run.seed,
    }


def _version(distribution: str) -> str | None:
    try:
        return installed.version(distribution)
    except installed.PackageNotFoundError:
        return None


def plain(value: Any) -> Any:
    """Return plain dicts and lists: what was loaded remembers places, which a file need not."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
