"""The lifecycle of a run, as pluggy hook specifications.

A hook is an object with methods marked ``@hookimpl`` and, if it cares, a ``priority`` (smaller runs first) and
``state_dict``/``load_state_dict``. A method names only the arguments it uses. ``run`` is the `segkernel.Runner`:
read ``run.iteration``, ``run.model``, ``run.metrics`` ... and call ``run.stop(reason)`` to end training after this
iteration. Hooks run on every rank; guard writing with ``run.is_main``.

    class SayHello:
        priority = Priority.LOW

        @hookimpl
        def before_run(self, run): logging.getLogger(__name__).info("hello from %s", run.work_dir)
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from segkernel.errors import UsageError

if TYPE_CHECKING:
    from segkernel.runner import Runner
    from segkernel.sample import Batch, Prediction, Targets

PROJECT = "segkernel"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Priority(enum.IntEnum):
    """When a hook runs among others: smaller first, equal ones in the order of the config."""

    VERY_HIGH = 10
    HIGH = 30
    ABOVE_NORMAL = 40
    NORMAL = 50
    BELOW_NORMAL = 60
    LOW = 70
    VERY_LOW = 90


@hookspec
def before_run(run: Runner) -> None:
    """Everything is built and, when resuming, restored; nothing has run."""


@hookspec
def before_train(run: Runner) -> None:
    """Training is about to start at ``run.iteration``."""


@hookspec
def before_train_iteration(run: Runner, batches: list[Batch]) -> None:
    """One optimiser step is about to be made from these micro-batches."""


@hookspec
def after_train_iteration(run: Runner, batches: list[Batch], losses: Mapping[str, Any]) -> None:
    """An optimiser step was made; ``losses`` are detached tensors on the device: reading one waits for the device."""


@hookspec
def after_train_epoch(run: Runner, epoch: int) -> None:
    """The draw order has passed the end of an epoch; ``epoch`` counts those completed."""


@hookspec
def on_record(run: Runner, record: Mapping[str, Any]) -> None:
    """A line for the log: ``kind`` (train, val or test), ``iteration`` and plain figures."""


@hookspec
def before_validation(run: Runner) -> None:
    """Validation is about to start; the model is in eval mode."""


@hookspec
def after_prediction(run: Runner, prediction: Prediction, target: Targets) -> None:
    """One image of a validation or a test was predicted at its original size, and its metrics updated."""


@hookspec
def after_validation(run: Runner, metrics: Mapping[str, float]) -> None:
    """Validation has ended with these figures; they are also in ``run.metrics``."""


@hookspec
def after_iteration(run: Runner) -> None:
    """An iteration is over, its validation included: the moment to save."""


@hookspec
def save_checkpoint(run: Runner, checkpoint: dict[str, Any]) -> None:
    """A checkpoint is about to be written; plain values and tensors may be added."""


@hookspec
def load_checkpoint(run: Runner, checkpoint: Mapping[str, Any]) -> None:
    """A checkpoint was read and the run restored from it."""


@hookspec
def after_train(run: Runner) -> None:
    """Training has ended, at its last iteration or by ``run.stop``."""


@hookspec
def before_test(run: Runner) -> None:
    """The test is about to start; the model is in eval mode."""


@hookspec
def after_test(run: Runner, metrics: Mapping[str, float]) -> None:
    """The test has ended with these figures."""


@hookspec
def on_exception(run: Runner, error: BaseException) -> None:
    """The run is about to end with this error."""


@hookspec
def after_run(run: Runner) -> None:
    """The run is over, whatever way it went: close files here."""


def relay(hooks: Sequence[Any]) -> Any:
    """Return what tells hooks of a moment, in the order given: pluggy calls the last registered first.

    Raises:
        UsageError: When a hook marks a method that is no moment.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(sys.modules[__name__])
    for index, hook in reversed(list(enumerate(hooks))):
        try:
            manager.register(hook, name=f"{index}:{type(hook).__name__}")
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise UsageError(f"{type(hook).__name__}: {error}") from error
    return manager.hook
