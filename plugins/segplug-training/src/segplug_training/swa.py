"""`SWAHook`: stochastic weight averaging over the last part of training, with batch-norm statistics recomputed.

Averaging Weights Leads to Wider Optima and Better Generalization (Izmailov et al., 2018).

    hooks:
      - {type: SWAHook, begin_iter: 30000, interval: 1000}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.engine import LocalEngine
from segkernel.errors import UsageError
from segplug_training.ema import EMAHook

if TYPE_CHECKING:
    from segkernel.hookspecs import Run


class SWAHook(EMAHook):
    """Average the weights, equally weighted, every ``interval`` iterations from ``begin_iter`` on.

    Validation and checkpoints use the average, as with `EMAHook`. The running statistics of batch norm do not match
    the average, so they are recomputed on training samples, the same ones every time. The usual constant or cyclic
    learning rate is set in ``schedule.lr``.

    Args:
        begin_iter: First iteration to average, counted from 1.
        begin_epoch: First epoch to average, counted from 1.
        interval: Iterations between two updates.
        bn_batches: Micro-batches per rank to recompute batch-norm statistics on; 0 keeps the model's.
    """

    def __init__(
        self,
        begin_iter: NonNegativeInt = 0,
        begin_epoch: NonNegativeInt = 0,
        interval: PositiveInt = 1,
        bn_batches: NonNegativeInt = 100,
    ) -> None:
        super().__init__("StochasticWeightAverage", interval=interval, begin_iter=begin_iter, begin_epoch=begin_epoch)
        self.bn_batches = bn_batches
        self._measured: tuple[int, list[Tensor]] = (0, [])

    def apply(self, run: Run) -> bool:
        applied = super().apply(run)
        norms = [
            module for module in run.model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        if applied and norms and self.bn_batches:
            buffers = [buffer for norm in norms for buffer in norm.buffers()]
            if self._measured[0] == self.steps:  # same average as last time
                for buffer, value in zip(buffers, self._measured[1]):
                    buffer.copy_(value)
            else:
                self._measure(run, norms)
                self._measured = self.steps, [buffer.clone() for buffer in buffers]
        return applied

    @torch.no_grad()
    def _measure(self, run: Run, norms: Sequence[_BatchNorm]) -> None:
        engine = run.engine
        if not isinstance(engine, LocalEngine) or run.train_set is None:
            raise UsageError(
                f"SWAHook: {type(engine).__name__} cannot recompute batch-norm statistics; set bn_batches: 0"
            )
        momenta, modes = [norm.momentum for norm in norms], {m: m.training for m in run.model.modules()}
        run.model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # a cumulative average
        try:
            batches = replace(run.train_set, workers=0).train_batches(0, engine.rank, engine.world_size)
            for batch in islice(batches, self.bn_batches):
                images, _ = engine.preprocessor(batch.to(engine.device))
                with engine.autocast():
                    run.model(images)
        finally:
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum
            for module, training in modes.items():
                module.training = training
