"""Training extras for seg-kernel: `DDPEngine`, `TensorBoardHook`, schedules, and the command ``seg-kernel plot``.

runner = Runner(model, train=..., hooks=[TensorBoardHook()])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segplug_training.ddp import DDPEngine as DDPEngine
    from segplug_training.tensorboard import TensorBoardHook as TensorBoardHook

_HOMES = {"DDPEngine": "ddp", "TensorBoardHook": "tensorboard"}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
