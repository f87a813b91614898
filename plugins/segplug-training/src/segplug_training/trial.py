"""A short run for ``find-lr`` and ``find-batch-size``: no validation, schedule, checkpoints or logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkernel.config import Config, load_config
from segkernel.hooks.checkpoint import CheckpointHook
from segplug_training.finite_loss import FiniteLossHook

if TYPE_CHECKING:
    from segkernel import Runner
    from segkernel.hookspecs import Run


class NoCheckpoints(CheckpointHook):
    """Replaces the hook that saves checkpoints."""

    def after_iteration(self, run: Run) -> None:
        """Save nothing."""


class AnyLoss(FiniteLossHook):
    """Replaces the hook that stops a run whose loss is not finite."""

    def after_train_iteration(self, run: Run, *args: Any, **kwargs: Any) -> None:
        """Accept any loss."""


def make_trial(
    config: Config, folder: Path, iterations: int, *hooks: Any, workers: int | None = None, weights: bool = True
) -> Runner:
    """Build a run of some steps from a config.

    Args:
        config: The complete config.
        folder: Run directory.
        iterations: Length of the run.
        hooks: Hooks in addition to the default ones.
        workers: Overrides data.workers.
        weights: Whether to load those that the config starts from: ``pretrained`` and ``load_from``.

    Raises:
        ConfigError: All problems at once.
        UsageError: When the config does not train.
    """
    from segkernel.errors import UsageError
    from segkernel.experiment import make_runner
    from segkernel.loading import catalog_of

    data = {**(config.get("data") or {}), "val": None, "test": None}
    data |= {} if workers is None else {"workers": workers}
    changed = load_config({**config, "data": data, "schedule": {"iterations": iterations}, "hooks": [], "export": []})
    changed.name = config.name
    runner = make_runner(changed, folder, hooks=[NoCheckpoints(), AnyLoss(), *hooks], pretrained=weights)
    if runner.train_set is None or runner.optimizer is None:
        raise UsageError("nothing to train: data.train and optim.optimizer are required")
    if weights and config.get("load_from"):
        with catalog_of(config).active():
            runner.load_weights(config["load_from"])
    return runner
