"""`DDPEngine`: data-parallel training on torch's DistributedDataParallel, by NCCL on GPUs and by gloo elsewhere.

torchrun --nproc-per-node 2 -m segkernel run my.yaml engine.type=DDPEngine
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import Unpack

from segkernel.annotations import Positive
from segkernel.interfaces.model import Segmentor
from segkernel.sample import Batch
from segplug_training.cuda import CUDAEngine, EngineArguments
from segplug_training.loss_module import LossModule
from segplug_training.ranks import Ranks, is_launched, local_rank
from segplug_training.sync_batch_norm import synchronise_batch_norm

T = TypeVar("T")
_NEW = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters  # since torch 2.13
_BUFFERS = "forward_sync_buffers" if _NEW else "broadcast_buffers"


class DDPEngine(CUDAEngine):
    """Every rank trains a copy of the model on its share of the batch; gradients are averaged while they are computed.

    Batch norm that a config asks to be synchronised (``SyncBN``) is; other running statistics are rank 0's. Alone,
    without torchrun, it is a `CUDAEngine`.

    Args:
        backend: None takes NCCL on CUDA, else gloo.
        timeout: Seconds that a rank waits for another before it gives up.
        find_unused_parameters: For models in which some parameters get no gradient in some steps; slower.
        static_graph: The model uses the same parameters in every step: allows more of torch's optimisations.
        bucket_cap_mb: Megabytes of gradients that travel at once.

    Raises:
        UsageError: When the processes do not find each other, or a device is not there.
    """

    def __init__(
        self,
        backend: Literal["nccl", "gloo"] | None = None,
        timeout: Positive = 1800.0,
        find_unused_parameters: bool = False,
        static_graph: bool = False,
        bucket_cap_mb: Positive = 25.0,
        **kwargs: Unpack[EngineArguments],
    ) -> None:
        if is_launched() and torch.cuda.is_available() and kwargs.get("device", "auto") in ("auto", "cuda"):
            kwargs["device"] = f"cuda:{local_rank()}"
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {
            "find_unused_parameters": find_unused_parameters,
            "static_graph": static_graph,
            "bucket_cap_mb": bucket_cap_mb,
            "gradient_as_bucket_view": True,
            # Running statistics are needed in an evaluation only; `sync_buffers` brings rank 0's there.
            _BUFFERS: False,
        }
        self.ranks: Ranks | None = None
        if is_launched():
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            self.ranks = Ranks(backend or ("nccl" if self.device.type == "cuda" else "gloo"), timeout)
            self.rank, self.world_size = self.ranks.rank, self.ranks.size

    def prepare_model(self, segmentor: Segmentor, preprocessor: nn.Module) -> None:
        if self.ranks:
            synchronise_batch_norm(segmentor, self.device.type == "cuda")
        super().prepare_model(segmentor, preprocessor)

    def wrap(self, loss_module: LossModule) -> nn.Module:
        if self.ranks is None:
            return loss_module
        with self.ranks.watching():
            self.parallel = DistributedDataParallel(loss_module, **self.options)
        return self.parallel

    def train_step(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        if self.ranks is None:
            return super().train_step(micro_batches)
        with self.ranks.watching():
            return super().train_step(micro_batches)

    def accumulating(self) -> AbstractContextManager[Any]:
        return self.parallel.no_sync() if self.ranks else super().accumulating()

    # ------------------------------------------------------------ what all ranks do together

    def gather(self, value: T) -> list[T]:
        return self.ranks.gather(value) if self.ranks else [value]

    def any(self, flag: bool) -> bool:
        return self.ranks.any(flag) if self.ranks else flag

    def barrier(self) -> None:
        if self.ranks:
            self.ranks.barrier()

    def alert(self, reason: str) -> None:
        if self.ranks:
            self.ranks.alert(reason)

    @property
    def alerted(self) -> bool:
        return self.ranks is not None and self.ranks.alerted

    def sync_buffers(self) -> None:
        if self.ranks:
            with self.ranks.watching():
                for buffer in self.segmentor.buffers():
                    dist.broadcast(buffer, 0)
