"""`FSDPEngine`: parameters, gradients and optimiser states are sharded over the ranks by torch's ``fully_shard``.

torchrun --nproc-per-node 8 -m segkernel run my.yaml engine.type=FSDPEngine engine.amp=bfloat16
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Unpack

from segkernel.errors import CheckpointError, UsageError
from segkernel.interfaces.model import Segmentor
from segkernel.sample import Targets
from segplug_training.activation_checkpointing import modules_called
from segplug_training.distributed import DistributedArguments, DistributedEngine


class FSDPEngine(DistributedEngine):
    """Fully sharded data parallelism: every rank holds a shard of each parameter; a block is gathered while it runs.

    Checkpoints have the same keys as in one process: they load with any engine and number of ranks. Evaluation has the
    full model on every rank.

    Args:
        shard: Modules that are gathered one at a time, ``backbone.layers.*``; None is every block with ``with_cp``.
            Parameters outside them stay gathered during the whole step.
        reshard_after_forward: Free the gathered parameters after the forward pass and gather them again for the
            backward pass: less memory, 50 % more communication.
        param_dtype: Type of parameters and gradients in computation and communication; the shards, and batch norms,
            keep theirs. None keeps it everywhere (``amp`` is independent of it).
        checkpoint: ``full`` gathers checkpoints and writes single files. ``sharded`` gathers nothing: each rank writes
            its shards, into a folder next to the file; ``seg-kernel merge-checkpoint`` merges the two into one file.

    Raises:
        UsageError: When this torch has no ``fully_shard``, or a module does not exist.
    """

    def __init__(
        self,
        shard: Sequence[str] | None = None,
        reshard_after_forward: bool = True,
        param_dtype: Literal["float16", "bfloat16"] | None = None,
        checkpoint: Literal["full", "sharded"] = "full",
        **kwargs: Unpack[DistributedArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.shard, self.reshard_after_forward = shard, reshard_after_forward
        self.param_dtype: torch.dtype | None = getattr(torch, param_dtype) if param_dtype else None
        self.checkpoint = checkpoint
        self._resumed_from: Path | None = None
        self.channels_last = self.memory_format is torch.channels_last
        if self.ranks:
            self.memory_format = torch.contiguous_format  # shards are rows; feature maps follow the images' format

    def prepare_model(self, segmentor: Segmentor, preprocessor: nn.Module) -> None:
        super().prepare_model(segmentor, preprocessor)
        if self.ranks:
            before = list(segmentor.parameters())
            with self.ranks.watching():
                self._shard(segmentor)
            self._replaced = {id(old): new for old, new in zip(before, segmentor.parameters())}

    def _shard(self, segmentor: Segmentor) -> None:
        fsdp = _fsdp()
        mesh = self.mesh = torch.distributed.device_mesh.init_device_mesh(self.device.type, (self.world_size,))
        if self.checkpoint == "sharded":  # for a group of its own, checkpoints may be written beside training
            self.writers = torch.distributed.new_group(backend="gloo")
        policy = fsdp.MixedPrecisionPolicy(param_dtype=self.param_dtype, reduce_dtype=_wider(self.param_dtype))
        blocks = modules_called(segmentor, True if self.shard is None else self.shard)
        if self.param_dtype:  # running statistics are float32, and so are their weights
            for norm in (module for module in segmentor.modules() if isinstance(module, _BatchNorm)):
                float32 = fsdp.MixedPrecisionPolicy(cast_forward_inputs=False)
                fsdp.fully_shard(norm, mesh=mesh, mp_policy=float32, reshard_after_forward=False)
        for block in reversed(blocks.values()):  # inner blocks first
            fsdp.fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=self.reshard_after_forward)
        fsdp.fully_shard(segmentor, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        for method in ("loss", "predict", "predict_with_loss"):
            fsdp.register_fsdp_forward_method(segmentor, method)
        self.units: list[Any] = [module for module in segmentor.modules() if isinstance(module, fsdp.FSDPModule)]

    def prepare_optimizer(
        self, optimizer: torch.optim.Optimizer, clip_grad: Mapping[str, float] | None = None
    ) -> torch.optim.Optimizer:
        own = set(map(id, self.segmentor.parameters()))
        for group in optimizer.param_groups if self.ranks else ():  # built before the model was sharded, perhaps
            group["params"] = [each if id(each) in own else self._replaced[id(each)] for each in group["params"]]
        return super().prepare_optimizer(optimizer, clip_grad)

    def compute_loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        if self.ranks and self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return super().compute_loss(images, targets)

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        for unit in self.units if self.ranks else ():
            unit.set_requires_gradient_sync(False, recurse=False)
        yield
        for unit in self.units if self.ranks else ():
            unit.set_requires_gradient_sync(True, recurse=False)

    def clip(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        return _whole(super().clip(max_norm, norm_type))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        with super().evaluating():
            if self.ranks is None:
                yield
                return
            with self.ranks.watching():
                for unit in self.units:
                    unit.unshard()
            # Ranks predict different numbers of images, so that nothing may be gathered during a prediction.
            before = [unit is not self.units[0] and self.reshard_after_forward for unit in self.units]
            self._reshard_after_forward([False] * len(self.units))
            try:
                yield
            finally:
                self._reshard_after_forward(before)
                for unit in self.units:
                    unit.reshard()

    def _reshard_after_forward(self, flags: Sequence[bool]) -> None:
        for unit, flag in zip(self.units, flags):
            unit.set_reshard_after_forward(flag, recurse=False)

    # ------------------------------------------------------------ state: unsharded outside, sharded inside

    @property
    def writes_shards(self) -> bool:
        """Whether every rank writes its shards of a checkpoint."""
        return self.ranks is not None and self.checkpoint == "sharded"

    def write(self, path: Path, state: Mapping[str, Any]) -> None:
        if self.ranks is None or not self.writes_shards:
            super().write(path, state)
            return
        from segplug_training import sharded_checkpoint

        with self.ranks.watching():
            if self.rank == 0 and self._resumed_from not in (None, path.parent):
                sharded_checkpoint.adopt(path.parent, self._resumed_from)
            self._resumed_from = None
            sharded_checkpoint.write(path, state, self.writers)

    def read(self, path: Path) -> dict[str, Any]:
        from segplug_training import sharded_checkpoint

        found = self.gather(sharded_checkpoint.is_sharded(path))
        if self.ranks is None or not any(found):
            return super().read(path)
        if not all(found):
            raise CheckpointError(f"{path}: rank {found.index(False)} does not find it with its shards; all must")
        self._resumed_from = path.parent
        with self.ranks.watching():
            return sharded_checkpoint.read(path, self._empty, alone=False, group=self.ranks.group)

    def _empty(self, size: torch.Size, dtype: torch.dtype) -> Tensor:
        from torch.distributed.tensor import Shard, empty

        return empty(size, dtype=dtype, device_mesh=self.mesh, placements=[Shard(0)])

    def model_state(self) -> dict[str, Tensor]:
        state = super().model_state()
        return self._gathered(state)

    def load_model_state(self, state: Mapping[str, Tensor]) -> Any:
        own = self.segmentor.state_dict()
        return super().load_model_state({name: _part_like(own.get(name), value) for name, value in state.items()})

    def optimizer_state(self) -> dict[str, Any]:
        state = super().optimizer_state()
        return {**state, "state": {key: self._gathered(dict(values)) for key, values in state["state"].items()}}

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        parts = {
            key: {name: _part_like(parameters[key], value) for name, value in values.items()}
            for key, values in state["state"].items()
        }
        super().load_optimizer_state({**state, "state": parts})

    def _gathered(self, values: dict[str, Any]) -> dict[str, Any]:
        """Replace shards by full tensors in host memory for full checkpoints; called by all ranks together."""
        if self.ranks and not self.writes_shards:
            with self.ranks.watching():
                for name, value in values.items():
                    values[name] = _whole(value).cpu() if isinstance(value, Tensor) else value
        return values


def _fsdp() -> Any:
    """Import torch's FSDP2, which older releases lack or have only in part."""
    try:
        from torch.distributed import device_mesh, fsdp  # noqa: F401
        from torch.distributed.fsdp import FSDPModule

        FSDPModule.set_reshard_after_forward  # noqa: B018
    except (ImportError, AttributeError) as error:
        message = f"needs torch.distributed.fsdp.fully_shard of a newer torch than {torch.__version__}"
        raise UsageError(f"FSDPEngine {message}; DDPEngine runs with this one") from error
    return fsdp


def _wider(dtype: torch.dtype | None) -> torch.dtype | None:
    """Return the dtype in which gradients are summed."""
    return None if dtype is None else torch.float32


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _part_like(target: Any, value: Any) -> Any:
    """Return this rank's shard of a full tensor if ``target``, of the same shape, is sharded."""
    is_full = isinstance(value, Tensor) and not hasattr(value, "full_tensor")
    if not (is_full and hasattr(target, "full_tensor") and value.shape == target.shape):
        return value
    from torch.distributed.tensor import distribute_tensor

    on_device = value.to(target.device, copy=True)
    return distribute_tensor(on_device, target.device_mesh, target.placements, src_data_rank=None)
