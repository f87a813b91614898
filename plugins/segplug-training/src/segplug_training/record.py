"""`RecordHook`: records config, plugins, environment and data of a run in its directory."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata as installed
from typing import TYPE_CHECKING, Any

import torch

from segkernel.catalog import Catalog
from segkernel.config.show import to_yaml
from segkernel.errors import SegKernelError
from segkernel.hookspecs import Priority, hookimpl
from segplug_training import requirements
from segplug_training.differences import differences
from segplug_training.ema import SOURCE
from segplug_training.provenance import compare, fingerprints, git_state

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

log = logging.getLogger(__name__)


class RecordHook:
    """Write ``config.yaml``, ``plugins.json``, ``environment.json`` and ``data.json`` into the run directory.

    ``seg-kernel rerun`` repeats a run from them. ``requirements.txt`` has the versions of the plugins and of all that
    they require: ``pip install -r`` installs them again.

    A run resumed in its directory keeps the files of its first part and adds its own, named after the iteration it
    resumes from, ``config_from_0000400.yaml``. It logs which settings differ from the checkpoint's, and which of these
    are ignored. A later test changes nothing. The fingerprints of the data are also in the ``meta`` of checkpoints, and
    a resumed run logs where its data differ from them.
    """

    priority = Priority.VERY_HIGH

    def __init__(self) -> None:
        self._fingerprints: dict[str, Any] | None = None

    @hookimpl
    def load_checkpoint(self, run: Run, checkpoint: Mapping[str, Any]) -> None:
        if SOURCE in checkpoint:  # also for a run without an averaging hook
            run.engine.load_model_state(checkpoint[SOURCE])
        if not run.config and run.optimizer is not None:  # no config to compare with
            rate = run.optimizer.param_groups[0]["initial_lr"]
            log.info("the optimizer keeps the checkpoint's settings, an initial learning rate of %g", rate)
        if run.train_set is not None and run.iteration >= run.max_iterations:
            ends = "the checkpoint is of iteration %d and the schedule ends at %d; increase schedule.iterations"
            log.warning(f"nothing is left to train: {ends}", run.iteration, run.max_iterations)
        stored = checkpoint["meta"].get("config")
        lines = differences(stored, _plain(run.config)) if stored and run.config and run.is_main else []
        if lines:
            level = logging.WARNING if any("not taken" in line for line in lines) else logging.INFO
            log.log(level, "settings that differ from the checkpoint's:\n    %s", "\n    ".join(lines))
        data = checkpoint["meta"].get("data")
        if data and run.is_main and (lines := compare(data, self._data(run))):
            log.warning("data that differ from the checkpoint's:\n    %s", "\n    ".join(lines))

    @hookimpl
    def save_checkpoint(self, run: Run, checkpoint: dict[str, Any]) -> None:
        if run.is_main:
            checkpoint["meta"]["data"] = self._data(run)

    @hookimpl
    def before_run(self, run: Run) -> None:
        there = (run.work_dir / "plugins.json").exists()
        if not run.is_main or (run.train_set is None and there):
            return
        part = f"_from_{run.iteration:07d}" if there else ""
        plugins = Catalog.current().versions()
        texts = {
            f"plugins{part}.json": json.dumps(plugins, indent=2),
            f"requirements{part}.txt": requirements.to_text(requirements.locked(plugins)),
            f"environment{part}.json": json.dumps(environment(run), indent=2),
            f"data{part}.json": json.dumps(self._data(run), indent=2),
        }
        if run.config:
            texts[f"config{part}.yaml"] = to_yaml(_plain(run.config))
        try:
            for name, text in texts.items():
                (run.work_dir / name).write_text(text, "utf-8")
        except OSError as error:
            raise SegKernelError(f"{run.work_dir}: cannot write the run directory: {error.strerror}") from error

    def _data(self, run: Run) -> dict[str, Any]:
        """Return the fingerprints of the run's data, which are computed once."""
        if self._fingerprints is None:
            self._fingerprints = fingerprints(run)
        return self._fingerprints


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain dicts and lists: loaded values carry file and line."""
    plain: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return plain


def environment(run: Run) -> dict[str, Any]:
    """Return what metrics may depend on besides config and data: command, versions, machine, seed, commit."""
    packages = ("torch", "numpy", "opencv-python", "opencv-python-headless")
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{found.name: found.version for name in packages for found in installed.distributions(name=name)},
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": str(run.engine.device),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "ranks": run.engine.world_size,
        "seed": run.seed,
        "git": git_state(),
    }
