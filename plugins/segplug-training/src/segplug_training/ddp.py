"""`DDPEngine`: data-parallel training on torch's DistributedDataParallel, by NCCL on GPUs and by gloo elsewhere.

seg-kernel run my.yaml --launch 2                                                 # on this machine
torchrun --nproc-per-node 2 -m segkernel run my.yaml                              # and on others
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import Unpack

from segkernel.annotations import Positive
from segplug_training.distributed import DistributedArguments, DistributedEngine
from segplug_training.loss_module import LossModule

_NEW = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters  # since torch 2.13
_BUFFERS = "forward_sync_buffers" if _NEW else "broadcast_buffers"


class DDPEngine(DistributedEngine):
    """Every rank trains a copy of the model on its share of the batch; gradients are averaged while they are computed.

    A config means it that gives no ``type`` under ``engine``: on one process it is a `CUDAEngine`. The gradients of
    accumulated micro-batches are exchanged once, with the last.

    Args:
        find_unused_parameters: For models in which some parameters get no gradient in some steps; slower.
        static_graph: The model uses the same parameters in every step: allows more of torch's optimisations.
        bucket_cap_mb: Megabytes of gradients that travel at once.
    """

    def __init__(
        self,
        find_unused_parameters: bool = False,
        static_graph: bool = False,
        bucket_cap_mb: Positive = 25.0,
        **kwargs: Unpack[DistributedArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {
            "find_unused_parameters": find_unused_parameters,
            "static_graph": static_graph,
            "bucket_cap_mb": bucket_cap_mb,
            "gradient_as_bucket_view": True,
            # Running statistics are needed in an evaluation only; `sync_buffers` brings rank 0's there.
            _BUFFERS: False,
        }
        self._graph_unknown = static_graph  # torch learns it in a first pass that exchanges gradients

    def wrap(self, loss_module: LossModule) -> nn.Module:
        if self.ranks is None:
            return loss_module
        with self.ranks.watching():
            self.parallel = DistributedDataParallel(loss_module, **self.options)
        return self.parallel

    def accumulating(self) -> AbstractContextManager[Any]:
        if self.ranks is None or self._graph_unknown:
            self._graph_unknown = False
            return super().accumulating()
        return self.parallel.no_sync()
