"""The lifecycle of a run, as pluggy hook specifications, and the part of the run that hooks may use.

A hook is an object with methods marked ``@hookimpl`` and, optionally, a ``priority`` (smaller runs first) and
``state_dict``/``load_state_dict``. A method declares only the arguments it uses. ``run`` is a `Run`: read
``run.iteration``, ``run.model``, ``run.metrics`` ... and call ``run.stop(reason)`` to end training after this
iteration. Hooks run on every rank; guard writing with ``run.is_main``.

Hook methods come in pairs: every ``before_validation`` is followed by its ``validation_ended``, also after an error or
a signal, in reverse order of priority; ``after_validation`` is called in between, only if there are metrics. The same
holds for ``run``, ``train``, ``train_iteration`` and ``test``.

    class SayHello:
        priority = Priority.LOW

        @hookimpl
        def before_run(self, run): logging.getLogger(__name__).info("hello from %s", run.work_dir)
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pluggy

from segkernel.errors import UsageError, suggest

if TYPE_CHECKING:
    import torch

    from segkernel.data import Loader
    from segkernel.interfaces.model import Engine, Segmentor
    from segkernel.labels import Labels
    from segkernel.sample import Batch, Prediction, Targets

PROJECT = "segkernel"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Stage = Literal["run", "train", "train_iteration", "validation", "test"]


class Run(Protocol):
    """The part of a run that hooks may use; nothing here is removed or changes its meaning within a major version."""

    model: Segmentor
    """The segmentor, unwrapped."""
    optimizer: torch.optim.Optimizer | None
    """None in a run that does not train."""
    engine: Engine
    """For collective operations: ``run.engine.merge(metric)``."""
    train_set: Loader | None
    val_set: Loader | None
    test_set: Loader | None
    work_dir: Path
    """The run directory; exists from ``before_run`` on."""
    config: dict[str, Any]
    """The resolved config as plain values; empty for a run built from objects."""
    seed: int
    iteration: int
    """Number of optimiser steps completed."""
    max_iterations: int
    mode: str
    """``train``, ``val``, ``test`` or ``idle``."""
    metrics: dict[str, float]
    """Metrics of the last evaluation by name."""
    data_wait: float
    """Seconds that the last iteration waited for its batches."""
    settled: bool
    """True between iterations, when a checkpoint of the run is consistent."""

    @property
    def labels(self) -> Labels:
        """Classes and palette of the data."""

    @property
    def epoch(self) -> float:
        """Passes over the training set so far."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files: true on one rank."""

    @property
    def stopping(self) -> bool:
        """Whether training ends after this iteration; the same on all ranks from ``after_iteration`` on."""

    def stop(self, reason: str) -> None:
        """End training after the current iteration, on all ranks; a checkpoint is saved."""

    def emit(self, record: Mapping[str, Any]) -> None:
        """Send a record of metrics to the logging hooks (``on_record``)."""

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint; a collective call."""


class Priority(enum.IntEnum):
    """The order in which hooks run: smaller first, equal ones in the order of the config."""

    VERY_HIGH = 10
    HIGH = 30
    ABOVE_NORMAL = 40
    NORMAL = 50
    BELOW_NORMAL = 60
    LOW = 70
    VERY_LOW = 90


class Moments:
    """The specifications of the hook methods."""

    def before_run(self, run: Run) -> None:
        """Everything is built and, when resuming, restored; nothing has run yet."""

    def before_train(self, run: Run) -> None:
        """Training is about to start at ``run.iteration``."""

    def before_train_iteration(self, run: Run, batches: list[Batch]) -> None:
        """An optimiser step is about to run on these micro-batches."""

    def after_train_iteration(self, run: Run, batches: list[Batch], losses: Mapping[str, Any]) -> None:
        """An optimiser step has run; ``losses`` are detached and on the device: reading one waits for the device."""

    def train_iteration_ended(self, run: Run) -> None:
        """Closes ``before_train_iteration``, also when the step failed."""

    def after_train_epoch(self, run: Run, epoch: int) -> None:
        """The draw order has passed the end of an epoch; ``epoch`` counts those completed."""

    def on_record(self, run: Run, record: Mapping[str, Any]) -> None:
        """A line for the log: ``kind`` (train, val or test), ``iteration`` and plain numbers by name."""

    def before_validation(self, run: Run) -> None:
        """Validation is about to start; the model is in eval mode."""

    def after_prediction(self, run: Run, prediction: Prediction, target: Targets) -> None:
        """One image of a validation or a test was predicted at its original size, and its metrics updated."""

    def after_validation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Validation is complete with these metrics; they are also in ``run.metrics``."""

    def validation_ended(self, run: Run) -> None:
        """Closes ``before_validation``, also when a signal or an error cut it short."""

    def after_iteration(self, run: Run) -> None:
        """An iteration is complete, including its validation: the time to save."""

    def save_checkpoint(self, run: Run, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is about to be written; plain values and tensors may be added."""

    def write_checkpoint(self, run: Run, path: Path, checkpoint: dict[str, Any]) -> Any:
        """The checkpoint is complete; return True, on all ranks, if this hook calls ``run.engine.write`` itself."""

    def load_checkpoint(self, run: Run, checkpoint: Mapping[str, Any]) -> None:
        """A checkpoint was read, from the file ``checkpoint["path"]``, and the run restored from it."""

    def after_train(self, run: Run) -> None:
        """Closes ``before_train``: at the last iteration, by ``run.stop``, or by an error."""

    def before_test(self, run: Run) -> None:
        """The test is about to start; the model is in eval mode."""

    def after_test(self, run: Run, metrics: Mapping[str, float]) -> None:
        """The test is complete with these metrics."""

    def test_ended(self, run: Run) -> None:
        """Closes ``before_test``, also when an error cut it short."""

    def on_exception(self, run: Run, error: BaseException) -> None:
        """The run is about to end with this error."""

    def after_run(self, run: Run) -> None:
        """Closes ``before_run``, on success and on failure: close files here."""


MOMENTS = [name for name in vars(Moments) if not name.startswith("_")]
for _name in MOMENTS:
    hookspec(getattr(Moments, _name))


class HookCaller:
    """Calls hook methods of all hooks in the order given: ``caller.after_iteration(run=run)``.

    Args:
        hooks: Sorted by priority.

    Raises:
        UsageError: When a hook marks a method that is not a hook method.
    """

    def __init__(self, hooks: Sequence[Any]) -> None:
        self.hooks = list(hooks)
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Moments)
        for index, hook in reversed(list(enumerate(hooks))):  # pluggy calls the last registered first
            try:
                self._manager.register(hook, name=f"{index}:{type(hook).__name__}")
                self._manager.check_pending()
            except pluggy.PluginValidationError as error:
                unknown = str(error).partition("unknown hook '")[2].partition("'")[0]
                reason = f"unknown hook method {unknown!r}; {suggest(unknown, MOMENTS)}" if unknown else error
                raise UsageError(f"{type(hook).__name__}: {reason}") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager.hook, name)

    def stateful(self) -> dict[str, Any]:
        """Return the hooks that have a state, keyed by their name in a checkpoint."""
        found: dict[str, Any] = {}
        for hook in (hook for hook in self.hooks if hasattr(hook, "state_dict")):
            name = type(hook).__name__
            found[f"{name}.{sum(key.startswith(name) for key in found)}"] = hook
        return found

    @contextmanager
    def during(self, stage: Stage, run: Run, **more: Any) -> Iterator[None]:
        """Call ``before_STAGE`` and, on leaving, also by an error, its closing method, in reverse order.

        The closing method is only called on hooks whose ``before_STAGE`` was called. ``more`` are further arguments of
        ``before_STAGE``.
        """
        # An ``after_STAGE`` that reports a result is not called without one: ``STAGE_ended`` closes these stages.
        closing = f"{stage}_ended" if hasattr(Moments, f"{stage}_ended") else f"after_{stage}"
        only = self._manager.subset_hook_caller
        with ExitStack() as opened:
            for hook in self.hooks:
                others = [other for other in self.hooks if other is not hook]
                only(f"before_{stage}", others)(run=run, **more)
                opened.callback(only(closing, others), run=run)
            yield
