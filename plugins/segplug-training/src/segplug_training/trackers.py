"""`WandbHook` and `MLflowHook`: send the records of a run to Weights & Biases or MLflow.

    hooks:
      - {type: WandbHook, project: roads}

pip install 'segplug-training[wandb]'    # or [mlflow]
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segkernel.config.marks import to_builtin
from segkernel.errors import SegKernelError
from segkernel.hookspecs import Priority, hookimpl
from segplug_training.tensorboard import hyperparameters

if TYPE_CHECKING:
    from segkernel.hookspecs import Run


class TrackerHook:
    """Send the records of a training run to a tracker, on rank 0; base class of tracker hooks.

    A resumed run continues the tracker's run whose id is in the checkpoint.
    """

    priority = Priority.VERY_LOW
    package: str
    """Package to install; also the name of the extra."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self._is_open = False

    @hookimpl
    def before_train(self, run: Run) -> None:
        if run.is_main:
            self.run_id = self.open(run, self.run_id)
            self._is_open = True

    @hookimpl
    def on_record(self, record: Mapping[str, Any]) -> None:
        if self._is_open:
            values = {name: value for name, value in record.items() if name not in ("kind", "iteration")}
            numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
            finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
            self.log({f"{record['kind']}/{name}": value for name, value in finite.items()}, record["iteration"])

    @hookimpl
    def on_exception(self) -> None:
        self._close(failed=True)

    @hookimpl
    def after_run(self) -> None:
        self._close(failed=False)

    def _close(self, failed: bool) -> None:
        if self._is_open:
            self._is_open = False
            self.close(failed)

    def load(self) -> Any:
        """Return the tracker's module.

        Raises:
            SegKernelError: When it is not installed.
        """
        try:
            return importlib.import_module(self.package)
        except ImportError as error:
            install = f"pip install 'segplug-training[{self.package}]'"
            raise SegKernelError(f"{type(self).__name__} needs {self.package}: {error}\n    {install}") from error

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.run_id = state["run_id"]

    def open(self, run: Run, run_id: str | None) -> str:
        """Start a run of the tracker, or continue ``run_id``; return its id."""
        raise NotImplementedError

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """Write finite numbers by name, ``val/mIoU``."""
        raise NotImplementedError

    def close(self, failed: bool) -> None:
        """End the tracker's run."""
        raise NotImplementedError


class WandbHook(TrackerHook):
    """Write records, and the config, to Weights & Biases.

    Args:
        project: Name of the project.
        entity: User or team; None is the user that is logged in.
        name: Name of the run; None is its directory's.
        mode: ``offline`` writes files to be sent later by ``wandb sync``.
    """

    package = "wandb"

    def __init__(
        self,
        project: str = "segkernel",
        entity: str | None = None,
        name: str | None = None,
        mode: Literal["online", "offline", "disabled"] = "online",
    ) -> None:
        super().__init__()
        self.options = {"project": project, "entity": entity, "mode": mode}
        self.name = name

    def open(self, run: Run, run_id: str | None) -> str:
        name, config = self.name or _name_of(run.work_dir), to_builtin(run.config)
        options = {**self.options, "name": name, "dir": str(run.work_dir), "config": config, "id": run_id}
        self._run = self.load().init(resume="allow", **options)
        # W&B drops records whose step decreases, as after a resume: plot curves over iterations instead.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        return str(self._run.id)

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        self._run.log({**values, "iteration": iteration})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


class MLflowHook(TrackerHook):
    """Write records to MLflow, with the settings that runs are compared by as parameters and the config as an artifact.

    Args:
        experiment: Name of the experiment.
        tracking_uri: Server or folder; None is MLflow's default.
        name: Name of the run; None is its directory's.
    """

    package = "mlflow"

    def __init__(self, experiment: str = "segkernel", tracking_uri: str | None = None, name: str | None = None) -> None:
        super().__init__()
        self.experiment, self.tracking_uri, self.name = experiment, tracking_uri, name

    def open(self, run: Run, run_id: str | None) -> str:
        self._mlflow = mlflow = self.load()
        if self.tracking_uri:
            mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_experiment(self.experiment)
        found = mlflow.start_run(run_id=run_id, run_name=None if run_id else self.name or _name_of(run.work_dir))
        if run_id is None:
            settings = {"seed": run.seed, "iterations": run.max_iterations, **hyperparameters(run.config)}
            mlflow.log_params({_plain_name(name): value for name, value in settings.items()})
            mlflow.log_dict(to_builtin(run.config), "config.yaml")
        return str(found.info.run_id)

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        self._mlflow.log_metrics({_plain_name(name): value for name, value in values.items()}, step=iteration)

    def close(self, failed: bool) -> None:
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


def _name_of(work_dir: Path) -> str:
    return "/".join(work_dir.parts[-2:])


def _plain_name(name: str) -> str:
    """Return a name with the characters that MLflow rejects replaced."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)
