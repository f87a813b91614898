"""Train two steps, write sharded and full checkpoints, read one back; ``sharded.py FOLDER`` by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from equivalence import CASES, make_batch, make_model

from segkernel import build
from segkernel.inference import Preprocessor
from segplug_training.async_checkpoint import on_host


def make_engine(lr: float = 0.01) -> Any:
    """Return an engine with a small model in float64 and its optimiser."""
    engine: Any = build("engines", {"type": "FSDPEngine", "device": "cpu", "threads": 1, "checkpoint": "sharded"})
    engine.prepare_model(make_model(CASES["fsdp"]).train(), Preprocessor().train())
    engine.prepare_optimizer(torch.optim.AdamW(engine.segmentor.parameters(), lr=lr))
    return engine


def state_of(engine: Any, checkpoint: str) -> dict[str, Any]:
    """Return what a run would save."""
    engine.checkpoint = checkpoint
    return {"state_dict": engine.model_state(), "optimizer": engine.optimizer_state(), "meta": {"iteration": 2}}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    engine = make_engine()
    for seed in range(2):
        engine.train_step([make_batch(seed, engine.rank, engine.world_size)])
    if engine.rank == 0:
        torch.save(state_of(engine, "full"), folder / "full.pt")
    else:
        state_of(engine, "full")
    parameters = [part.to_local() for part in engine.segmentor.parameters()]
    moments = [state["exp_avg"].to_local() for state in engine.optimizer.state.values()]
    sizes = engine.gather([sum(tensor.nbytes for tensor in tensors) for tensors in (parameters, moments)])
    if engine.rank == 0:
        torch.save(sizes, folder / "bytes.pt")
    state = state_of(engine, "sharded")
    engine.write(folder / "iter_0000001.pt", state)
    engine.write(folder / "iter_0000002.pt", on_host(state))
    engine.barrier()
    if engine.rank == 0:
        (folder / "iter_0000001.pt").unlink()
    engine.write(folder / "iter_0000003.pt", state)

    other = make_engine(lr=0.5)
    found = other.read(folder / "iter_0000002.pt")
    assert all(value.to_local().numel() < value.numel() for value in found["state_dict"].values() if value.dim() > 1)
    other.load_model_state(found["state_dict"])
    other.load_optimizer_state(found["optimizer"])
    whole = state_of(other, "full")
    if other.rank == 0:
        torch.save(whole, folder / "again.pt")
