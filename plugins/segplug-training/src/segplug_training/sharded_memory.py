"""Memory of a step per rank when parameters, gradients and optimiser states are sharded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from segplug_training.activation_checkpointing import modules_called

if TYPE_CHECKING:
    from segplug_training.fsdp import FSDPEngine
    from segplug_training.predicted_memory import StepMemory


def memory_per_rank(memory: StepMemory, model: nn.Module, engine: FSDPEngine, accumulate: int = 1) -> StepMemory:
    """Return the memory of a step on each rank of a `FSDPEngine`, from that of the unsharded step.

    Parameters outside the sharded blocks are gathered during the whole step, blocks two at a time: one computes while
    the next is fetched. Gradients of the first of several micro-batches stay unsharded.

    Args:
        memory: Of the unsharded model.
        model: Unsharded.
        engine: Its arguments and ``world_size`` count.
        accumulate: Micro-batches in a step.
    """
    units = _units(model, modules_called(model, True if engine.shard is None else engine.shard).values())
    full = sum(parameter.nbytes for parameter in model.parameters())
    shards = sum(_shard(parameter, engine.world_size) for parameter in model.parameters())
    root, *blocks = [sum(parameter.nbytes for parameter in unit) for unit in units]
    largest = max((sum(pair) for pair in zip([0, *blocks], [*blocks, 0], strict=True)), default=0)
    gathered = root + (largest if engine.reshard_after_forward else sum(blocks))
    share = shards / max(full, 1)
    return replace(
        memory,
        weights=memory.weights - full + shards,
        gathered=gathered // 2 if engine.param_dtype else gathered,
        optimizer=round(memory.optimizer * share),
        gradients=memory.gradients if accumulate > 1 else round(memory.gradients * share),
        # Feature maps were traced in the type of the shards, and take less in a shorter one.
        at_most=memory.at_most or engine.param_dtype is not None,
    )


def _units(model: nn.Module, blocks: Iterable[nn.Module]) -> Sequence[list[nn.Parameter]]:
    """Return the parameters that are gathered together: those outside of blocks, then those of each block."""
    taken: set[int] = set()
    found: list[list[nn.Parameter]] = []
    for module in [*reversed([*blocks]), model]:  # a block inside another one has its own
        own = [parameter for parameter in module.parameters() if id(parameter) not in taken]
        taken |= set(map(id, own))
        found.append(own)
    return found[::-1]


def _shard(parameter: nn.Parameter, world_size: int) -> int:
    """Return the bytes of the largest shard: rows are spread."""
    rows = parameter.shape[0] if parameter.dim() else 1
    return parameter.nbytes // max(rows, 1) * -(-rows // world_size)
