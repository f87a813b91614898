"""`EMAHook`: validates and saves an average of the weights over training, which the model keeps at the end.

    hooks:
      - {type: EMAHook, momentum: 0.0002}

A checkpoint's ``state_dict`` is the average, so that predictions and tests use it; the weights that training
continues from are in ``source_state_dict``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from segkernel.annotations import NonNegativeInt, Positive, PositiveInt, Probability
from segkernel.hookspecs import Priority, hookimpl
from segplug_training.begin_check import check_begin

if TYPE_CHECKING:
    from torch import nn

    from segkernel.hookspecs import Run

SOURCE = "source_state_dict"
"""Checkpoint key of the trained weights, since ``state_dict`` is their average."""

EMAType = Literal["ExponentialMovingAverage", "MomentumAnnealingEMA", "StochasticWeightAverage"]


class EMAHook:
    """Keep an average of the weights: ``average = (1 - m) * average + m * weights`` after an iteration.

    Validation and checkpoints use it; training continues with the weights themselves. At the end of training the
    model keeps the average.

    Args:
        ema_type: Determines ``m``: ``momentum`` itself; for ``MomentumAnnealingEMA`` the larger of ``momentum`` and
            gamma / (gamma + t), t being the iterations since the first; for ``StochasticWeightAverage`` 1 / n at the
            n-th update, which is the plain mean.
        momentum: Share of the new weights, from 0 to 1.
        gamma: Controls how fast ``MomentumAnnealingEMA`` decays to ``momentum``, in iterations.
        interval: Iterations between two updates.
        begin_iter: First iteration to average, counted from 1; until then the average equals the weights.
        begin_epoch: First epoch to average, counted from 1.
        update_buffers: Also average running statistics, instead of copying the model's.

    Raises:
        UsageError: When training begins, if it ends before ``begin_iter`` or ``begin_epoch``.
    """

    priority = Priority.NORMAL

    def __init__(
        self,
        ema_type: EMAType = "ExponentialMovingAverage",
        momentum: Probability = 0.0002,
        gamma: Positive = 100.0,
        interval: PositiveInt = 1,
        begin_iter: NonNegativeInt = 0,
        begin_epoch: NonNegativeInt = 0,
        update_buffers: bool = False,
    ) -> None:
        self.ema_type, self.momentum, self.gamma = ema_type, momentum, gamma
        self.interval, self.begin_iter, self.begin_epoch = interval, begin_iter, begin_epoch
        self.update_buffers = update_buffers
        self.steps = 0
        self._average: dict[str, Tensor] = {}
        self._source: dict[str, Tensor] | None = None  # while the model has the average
        self._applied_for_validation = False

    # ------------------------------------------------------------ the average

    @hookimpl
    def after_train_iteration(self, run: Run) -> None:
        if run.iteration >= self.begin_iter and math.ceil(run.epoch) >= self.begin_epoch:
            self.update(run.model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the current weights."""
        weights = dict(self.averaged(model))
        if self.steps == 0:
            self._average = {name: weight.clone() for name, weight in weights.items()}
        elif self.steps % self.interval == 0:
            torch._foreach_lerp_(list(self._average.values()), list(weights.values()), self.share_of_new())
        self.steps += 1

    def share_of_new(self) -> float:
        """Return the share of the new weights in the next update."""
        if self.ema_type == "StochasticWeightAverage":
            return 1 / (self.steps // self.interval + 1)
        if self.ema_type == "MomentumAnnealingEMA":
            return max(self.momentum, self.gamma / (self.gamma + self.steps))
        return self.momentum

    def averaged(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Yield the averaged tensors by name, this rank's shards."""
        for name, parameter in model.named_parameters():
            yield name, _local(parameter)
        for name, buffer in model.named_buffers() if self.update_buffers else ():
            if buffer.is_floating_point():
                yield name, _local(buffer)

    # ------------------------------------------------------------ the average in the model

    def apply(self, run: Run) -> bool:
        """Put the average into the model; return False when it is there already, or there is none yet."""
        if self.steps == 0 or self._source is not None:
            return False
        self._source = {name: tensor.clone() for name, tensor in _tensors(run.model).items()}
        _write(run.model, self._average)
        return True

    def restore(self, run: Run) -> None:
        """Restore the trained weights of the model, bit-exactly."""
        if self._source is not None:
            _write(run.model, self._source)
            self._source = None

    @hookimpl
    def before_train(self, run: Run) -> None:
        check_begin(run, type(self).__name__, "begin_iter", self.begin_iter)
        check_begin(run, type(self).__name__, "begin_epoch", self.begin_epoch, by_epoch=True)
        self.restore(run)

    @hookimpl
    def before_validation(self, run: Run) -> None:
        self._applied_for_validation = self.apply(run)

    @hookimpl
    def validation_ended(self, run: Run) -> None:
        if self._applied_for_validation:
            self.restore(run)

    @hookimpl
    def after_train(self, run: Run) -> None:
        if run.settled and (run.stopping or run.iteration >= run.max_iterations):
            self.apply(run)

    # ------------------------------------------------------------ checkpoints

    @hookimpl
    def save_checkpoint(self, run: Run, checkpoint: dict[str, Any]) -> None:
        if self.steps == 0:
            return
        if self._source is None:
            checkpoint[SOURCE] = checkpoint["state_dict"]
            self.apply(run)
            checkpoint["state_dict"] = _copy(run.engine.model_state())
            self.restore(run)
        else:
            checkpoint["state_dict"] = _copy(checkpoint["state_dict"])
            self.restore(run)
            checkpoint[SOURCE] = _copy(run.engine.model_state())
            self.apply(run)

    @hookimpl
    def load_checkpoint(self, run: Run, checkpoint: Mapping[str, Any]) -> None:
        if SOURCE not in checkpoint:
            self.steps = 0
            return
        run.engine.load_model_state(checkpoint["state_dict"])
        self._average = {name: tensor.detach().clone() for name, tensor in self.averaged(run.model)}
        run.engine.load_model_state(checkpoint[SOURCE])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor: averages are element-wise."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, this rank's shards."""
    named = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {name: _local(tensor).detach() for part in named for name, tensor in part}


def _write(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    tensors = _tensors(model)
    for name, value in values.items():
        tensors[name].copy_(value)


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    copied = copy(state)  # keeps the versions of layers, which torch stores in an attribute
    for name, tensor in state.items():
        copied[name] = tensor.clone()
    return copied
