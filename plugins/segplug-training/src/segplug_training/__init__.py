"""Training extras for seg-kernel: `DDPEngine`, `TensorBoardHook`, schedules, and the command ``seg-kernel plot``.

runner = Runner(model, train=..., hooks=[TensorBoardHook()])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# The names below are written by tools/update_known.py.
# isort: off
if TYPE_CHECKING:
    from segplug_training.async_checkpoint import AsyncCheckpointHook as AsyncCheckpointHook
    from segplug_training.cuda import CUDAEngine as CUDAEngine
    from segplug_training.ddp import DDPEngine as DDPEngine
    from segplug_training.distillation import DistillationHook as DistillationHook
    from segplug_training.early_stopping import EarlyStoppingHook as EarlyStoppingHook
    from segplug_training.ema import EMAHook as EMAHook
    from segplug_training.empty_cache import EmptyCacheHook as EmptyCacheHook
    from segplug_training.finite_loss import FiniteLossHook as FiniteLossHook
    from segplug_training.freeze import FreezeHook as FreezeHook
    from segplug_training.fsdp import FSDPEngine as FSDPEngine
    from segplug_training.loss_weight import LossWeightHook as LossWeightHook
    from segplug_training.memory import FreedMemoryHook as FreedMemoryHook
    from segplug_training.meter import MeterHook as MeterHook
    from segplug_training.metrics_log import MetricsLogHook as MetricsLogHook
    from segplug_training.momentum import ConstantMomentum as ConstantMomentum
    from segplug_training.momentum import CosineAnnealingMomentum as CosineAnnealingMomentum
    from segplug_training.momentum import CosineRestartMomentum as CosineRestartMomentum
    from segplug_training.momentum import ExponentialMomentum as ExponentialMomentum
    from segplug_training.momentum import LinearMomentum as LinearMomentum
    from segplug_training.momentum import MultiStepMomentum as MultiStepMomentum
    from segplug_training.momentum import PolyMomentum as PolyMomentum
    from segplug_training.momentum import StepMomentum as StepMomentum
    from segplug_training.more_optimizers import Lamb as Lamb
    from segplug_training.more_optimizers import Muon as Muon
    from segplug_training.paramwise import Paramwise as Paramwise
    from segplug_training.plateau import ReduceOnPlateauLR as ReduceOnPlateauLR
    from segplug_training.preemption import PreemptionHook as PreemptionHook
    from segplug_training.profiler import ProfilerHook as ProfilerHook
    from segplug_training.progress import ProgressBarHook as ProgressBarHook
    from segplug_training.progress import ProgressHook as ProgressHook
    from segplug_training.record import RecordHook as RecordHook
    from segplug_training.schedules import ConstantLR as ConstantLR
    from segplug_training.schedules import CosineAnnealingLR as CosineAnnealingLR
    from segplug_training.schedules import CosineRestartLR as CosineRestartLR
    from segplug_training.schedules import CyclicLR as CyclicLR
    from segplug_training.schedules import ExponentialLR as ExponentialLR
    from segplug_training.schedules import LinearLR as LinearLR
    from segplug_training.schedules import MultiStepLR as MultiStepLR
    from segplug_training.schedules import OneCycleLR as OneCycleLR
    from segplug_training.schedules import PolyLR as PolyLR
    from segplug_training.schedules import PolyLRRatio as PolyLRRatio
    from segplug_training.schedules import StepLR as StepLR
    from segplug_training.schedules import TwoStageWarmupPolyLR as TwoStageWarmupPolyLR
    from segplug_training.semi_supervised import SemiSupervisedHook as SemiSupervisedHook
    from segplug_training.sharded_checkpoint import ShardedCheckpoint as ShardedCheckpoint
    from segplug_training.swa import SWAHook as SWAHook
    from segplug_training.tensorboard import TensorBoardHook as TensorBoardHook
    from segplug_training.trackers import MLflowHook as MLflowHook
    from segplug_training.trackers import WandbHook as WandbHook
    from segplug_training.workers import WorkersHook as WorkersHook
# isort: on

_HOMES = {
    "AsyncCheckpointHook": ".async_checkpoint",
    "CUDAEngine": ".cuda",
    "ConstantLR": ".schedules",
    "ConstantMomentum": ".momentum",
    "CosineAnnealingLR": ".schedules",
    "CosineAnnealingMomentum": ".momentum",
    "CosineRestartLR": ".schedules",
    "CosineRestartMomentum": ".momentum",
    "CyclicLR": ".schedules",
    "DDPEngine": ".ddp",
    "DistillationHook": ".distillation",
    "EMAHook": ".ema",
    "EarlyStoppingHook": ".early_stopping",
    "EmptyCacheHook": ".empty_cache",
    "ExponentialLR": ".schedules",
    "ExponentialMomentum": ".momentum",
    "FSDPEngine": ".fsdp",
    "FiniteLossHook": ".finite_loss",
    "FreedMemoryHook": ".memory",
    "FreezeHook": ".freeze",
    "Lamb": ".more_optimizers",
    "LinearLR": ".schedules",
    "LinearMomentum": ".momentum",
    "LossWeightHook": ".loss_weight",
    "MLflowHook": ".trackers",
    "MeterHook": ".meter",
    "MetricsLogHook": ".metrics_log",
    "MultiStepLR": ".schedules",
    "MultiStepMomentum": ".momentum",
    "Muon": ".more_optimizers",
    "OneCycleLR": ".schedules",
    "Paramwise": ".paramwise",
    "PolyLR": ".schedules",
    "PolyLRRatio": ".schedules",
    "PolyMomentum": ".momentum",
    "PreemptionHook": ".preemption",
    "ProfilerHook": ".profiler",
    "ProgressBarHook": ".progress",
    "ProgressHook": ".progress",
    "RecordHook": ".record",
    "ReduceOnPlateauLR": ".plateau",
    "SWAHook": ".swa",
    "SemiSupervisedHook": ".semi_supervised",
    "ShardedCheckpoint": ".sharded_checkpoint",
    "StepLR": ".schedules",
    "StepMomentum": ".momentum",
    "TensorBoardHook": ".tensorboard",
    "TwoStageWarmupPolyLR": ".schedules",
    "WandbHook": ".trackers",
    "WorkersHook": ".workers",
}
# Here they end.

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
