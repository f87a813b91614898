"""Training extras for seg-kernel: `TensorBoardHook`, and the command ``seg-kernel plot``.

runner = Runner(model, train=..., hooks=[TensorBoardHook()])
"""

from segplug_training.tensorboard import TensorBoardHook as TensorBoardHook

__all__ = ["TensorBoardHook"]
