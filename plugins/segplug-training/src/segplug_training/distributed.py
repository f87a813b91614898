"""`DistributedEngine`: base class of multi-process engines, independent of how parameters are sharded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import Positive
from segkernel.interfaces.model import Segmentor
from segkernel.sample import Batch
from segplug_training.cuda import CUDAEngine, EngineArguments
from segplug_training.ranks import Ranks, gpu_index, is_launched
from segplug_training.smaller_batches import SmallerBatches
from segplug_training.sync_batch_norm import synchronise_batch_norm

T = TypeVar("T")
log = logging.getLogger("segkernel")


class DistributedArguments(EngineArguments, total=False):
    """The arguments of `DistributedEngine`, for engines that pass them on."""

    backend: Literal["nccl", "gloo"] | None
    timeout: Positive


class DistributedEngine(CUDAEngine):
    """A rank of a distributed run, with its own device and its share of the batch.

    ``SyncBN`` layers are synchronised over ranks; running statistics of other norms are rank 0's. Without a launcher
    it acts as `CUDAEngine`.

    Args:
        backend: None is NCCL on CUDA, else gloo.
        timeout: Seconds that a rank waits for the others before it fails.

    Raises:
        UsageError: When the processes cannot connect to each other, or a device does not exist.
    """

    def __init__(
        self,
        backend: Literal["nccl", "gloo"] | None = None,
        timeout: Positive = 1800.0,
        **kwargs: Unpack[EngineArguments],
    ) -> None:
        if is_launched() and torch.cuda.is_available() and kwargs.get("device", "auto") in ("auto", "cuda"):
            kwargs["device"] = f"cuda:{gpu_index()}"
        super().__init__(**kwargs)
        self.ranks: Ranks | None = None
        if is_launched():
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            self.ranks = Ranks(backend or ("nccl" if self.device.type == "cuda" else "gloo"), timeout)
            self.rank, self.world_size = self.ranks.rank, self.ranks.size
            if self.rank and log.isEnabledFor(logging.INFO) and not log.isEnabledFor(logging.DEBUG):
                log.setLevel(logging.WARNING)  # rank 0 logs the same
            if self.smaller_batches is not None:
                self.smaller_batches = SmallerBatches(self.ranks.set_parts, self.ranks.parts())

    def prepare_model(self, segmentor: Segmentor, preprocessor: nn.Module) -> None:
        if self.ranks:
            synchronise_batch_norm(segmentor, self.device.type == "cuda")
        super().prepare_model(segmentor, preprocessor)

    def train_step(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        if self.ranks is None:
            return super().train_step(micro_batches)
        with self.ranks.watching():
            return super().train_step(micro_batches)

    # ------------------------------------------------------------ collective operations

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

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        self.sync_buffers()
        with super().evaluating():
            yield

    def model_state(self) -> dict[str, Tensor]:
        self.sync_buffers()
        return super().model_state()

    def sync_buffers(self) -> None:
        """Broadcast rank 0's running statistics and other buffers."""
        if self.ranks:
            with self.ranks.watching():
                for buffer in self.segmentor.buffers():
                    dist.broadcast(buffer, 0)
