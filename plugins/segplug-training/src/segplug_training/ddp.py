"""`DDPEngine`: data-parallel training on torch's DistributedDataParallel, with NCCL on GPUs and gloo elsewhere.

seg-kernel run my.yaml --launch 2                                                 # on this machine
torchrun --nproc-per-node 2 -m segkernel run my.yaml                              # on one or several machines
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import Unpack

from segkernel.annotations import Positive
from segkernel.errors import UsageError
from segkernel.sample import Batch
from segplug_training.distributed import DistributedArguments, DistributedEngine
from segplug_training.loss_module import LossModule


class DDPEngine(DistributedEngine):
    """Data parallelism: every rank trains a replica on its share of the batch; gradients are averaged during backward.

    The default engine when ``type`` is omitted; in a single process it acts as `CUDAEngine`. With gradient
    accumulation, gradients are all-reduced once, with the last micro-batch. Parameters may be frozen and released
    between steps (`FreezeHook`): the all-reduced set follows.

    Args:
        find_unused_parameters: For models in which some parameters get no gradient in some steps; slower.
        static_graph: Whether the model uses the same parameters in every step: allows further optimisations by DDP.
        bucket_cap_mb: Size of DDP's gradient buckets in MB; with ``compile`` 1 or more.

    Raises:
        UsageError: When ``compile`` is combined with smaller buckets.
    """

    may_freeze = True
    """Whether parameters may be frozen and released during training on several processes."""

    def __init__(
        self,
        find_unused_parameters: bool = False,
        static_graph: bool = False,
        bucket_cap_mb: Positive = 25.0,
        **kwargs: Unpack[DistributedArguments],
    ) -> None:
        super().__init__(**kwargs)
        if self.compile and bucket_cap_mb < 1:  # an assertion of its optimiser for DDP
            raise UsageError(f"engine.bucket_cap_mb {bucket_cap_mb:g}: torch.compile needs buckets of 1 MB or more")
        is_new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters  # torch 2.13
        self.options: dict[str, Any] = {
            "find_unused_parameters": find_unused_parameters,
            "static_graph": static_graph,
            "bucket_cap_mb": bucket_cap_mb,
            "gradient_as_bucket_view": True,
            # Running statistics are needed in evaluation only; `sync_buffers` broadcasts rank 0's then.
            "forward_sync_buffers" if is_new else "broadcast_buffers": False,
        }
        self._graph_unknown = static_graph  # DDP records it in a first pass that all-reduces gradients
        self._exchanged: list[bool] = []

    def wrap(self, loss_module: LossModule) -> nn.Module:
        if self.ranks is None:
            return loss_module
        with self.ranks.watching():
            self.parallel = DistributedDataParallel(loss_module, **self.options)
        self._exchanged, self._graph_unknown = self._trained(), self.options["static_graph"]
        return self.parallel

    def _trained(self) -> list[bool]:
        return [parameter.requires_grad for parameter in self.segmentor.parameters()]

    def train_step(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        if self.ranks is not None and self._trained() != self._exchanged:
            del self.parallel, self.loss_of
            gc.collect()  # the old wrapper's gradient hooks stay until it is freed
            self.wrap_loss()
        return super().train_step(micro_batches)

    def accumulating(self) -> AbstractContextManager[Any]:
        if self.ranks is None or self._graph_unknown:
            self._graph_unknown = False
            return super().accumulating()
        return self.parallel.no_sync()
