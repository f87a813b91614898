"""Checks of engines against a plain training loop, on the CPU: as one process, and as two."""

from __future__ import annotations

import copy
import os
import socket
import time
from collections import Counter
from typing import Any

import torch
from torch import multiprocessing

from segkernel.inference import Preprocessor
from segkernel.signature import signature
from segkernel.testing.core import Subject, check, require, skip_unless
from segkernel.testing.toys import ToySegmentor, toy_batch

STEPS = 20
RANKS = 2
BOTH = {"gather": [0, 1], "agree": "of 0", "any": [True, False], "sum": {"both": 4.0, "one": 5.0}, "merge": {"seen": 3}}
"""The results of collective operations on two ranks."""
PATIENCE = 180
"""Seconds after which two processes are considered deadlocked."""


@check("engines", name="training")
def training(subject: Subject) -> None:
    """Twenty steps of two micro-batches have the result of a plain loop, up to rounding."""
    engine, *_ = _prepared(subject)
    require(isinstance(engine.device, torch.device), f"device is {engine.device!r}, not a torch.device")
    expected, reference = _parts()
    for step in range(STEPS):
        values = engine.train_step(_batches(step))
        _reference_step(expected, reference, step)
    require("loss" in values, f"train_step returned no 'loss': {sorted(values)}")
    require(not values["loss"].requires_grad, "the values of train_step are not detached")
    _require_equal(engine.model_state(), expected.state_dict(), f"after {STEPS} steps", tolerance=1e-6)


@check("engines", name="resume")
def resume(subject: Subject) -> None:
    """Ten steps, a restart from the saved state, and ten more have the result of twenty."""
    straight, *_ = _prepared(subject)
    for step in range(STEPS):
        straight.train_step(_batches(step))
    first, *_ = _prepared(subject)
    for step in range(STEPS // 2):
        first.train_step(_batches(step))
    saved = copy.deepcopy((first.model_state(), first.optimizer_state(), first.state_dict()))
    second, *_ = _prepared(subject)
    second.load_model_state(saved[0])
    second.load_optimizer_state(saved[1])
    second.load_state_dict(saved[2])
    for step in range(STEPS // 2, STEPS):
        second.train_step(_batches(step))
    _require_equal(second.model_state(), straight.model_state(), "after a restart")


@check("engines", name="prediction")
def prediction(subject: Subject) -> None:
    """``predict`` and ``predict_with_loss`` return the model's results, without a gradient."""
    engine, model, _ = _prepared(subject)
    model.eval()
    batch = toy_batch(0).to(engine.device)
    images, targets = Preprocessor().to(engine.device).eval()(batch)
    expected, losses = copy.deepcopy(model).predict_with_loss(images, targets)
    raw, found = engine.predict_with_loss(images, targets)
    for name, logits in (("predict", engine.predict(images)["seg"]), ("predict_with_loss", raw["seg"])):
        require(torch.equal(logits, expected["seg"]), f"{name} differs from the segmentor's")
        require(not logits.requires_grad, f"{name} keeps a gradient")
    require(all(not value.requires_grad for value in found.values()), "predict_with_loss keeps the losses' gradient")
    require(torch.equal(found["loss"], sum(losses.values())), "predict_with_loss returns another loss")


@check("engines", name="two-processes")
def two_processes(subject: Subject) -> None:
    """Two processes agree, with the result of one on the batches of both; single-process engines are skipped."""
    require(_run_ranks(subject), f"two processes have not ended after {PATIENCE} s: is there a deadlock?")
    first, second = (torch.load(subject.folder / f"{rank}.pt") for rank in range(RANKS))
    skip_unless(first["world_size"] != 1, "it runs as one process, regardless of RANK and WORLD_SIZE")
    require((first["rank"], second["rank"]) == (0, 1), f"its ranks are {first['rank']} and {second['rank']}")
    for found in (first, second):
        for name, value in BOTH.items():
            require(found[name] == value, f"{name} returns {found[name]}, not {value}")
    expected, reference = _parts()
    for step in range(STEPS):
        _reference_step(expected, reference, step, RANKS)
    _require_equal(first["model"], expected.state_dict(), f"after {STEPS} steps of two processes", tolerance=1e-5)
    _require_equal(second["model"], first["model"], "on rank 1")
    _require_equal(first["reloaded"], first["model"], "after loading it again")


def _run_ranks(subject: Subject) -> bool:
    """Run `_rank` in two processes as a launcher would; return whether they ended in time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Forked from a process with imports done, which take most of the time of a spawned one.
    multiprocessing.set_forkserver_preload(["torch._dynamo", __name__])
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    running = multiprocessing.start_processes(_rank, (subject, port), RANKS, join=False, start_method=method)
    end = time.monotonic() + PATIENCE
    while not (ended := running.join(timeout=1)) and time.monotonic() < end:
        pass
    for process in running.processes:
        process.kill()
    return ended


def _rank(rank: int, subject: Subject, port: int) -> None:
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in launched.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    engine, _, _ = _prepared(subject)
    found: dict[str, Any] = {"rank": engine.rank, "world_size": engine.world_size}
    if engine.world_size == RANKS:
        found["gather"] = engine.gather(rank)
        found["agree"] = engine.agree(f"of {rank}")
        found["any"] = [engine.any(rank == 1), engine.any(False)]
        found["sum"] = engine.sum({"both": [1.0 + rank], "one": [5.0]} if rank == 0 else {"both": [1.0, 2.0]})
        found["merge"] = dict(engine.merge(_Seen(seen=rank + 1)))
        engine.barrier()
        for step in range(STEPS):
            engine.train_step([toy_batch(2 * RANKS * step + RANKS * micro + rank) for micro in range(2)])
        found["model"] = copy.deepcopy(engine.model_state())
        engine.load_model_state(found["model"])
        engine.load_optimizer_state(engine.optimizer_state())
        found["reloaded"] = engine.model_state()
    torch.save(found, subject.folder / f"{rank}.pt")


class _Seen(Counter[str]):
    """A minimal metric."""

    merge, compute = Counter.update, Counter.copy


def _build(subject: Subject) -> Any:
    return subject.build(**({"device": "cpu"} if "device" in signature(subject.target) else {}))


def _parts() -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = ToySegmentor()
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def _prepared(subject: Subject) -> tuple[Any, Any, Any]:
    engine, (model, optimizer) = _build(subject), _parts()
    engine.prepare_model(model.train(), Preprocessor().train())
    return engine, model, engine.prepare_optimizer(optimizer)


def _batches(step: int, ranks: int = 1) -> list[Any]:
    """Return the batches of all ranks in a step of two micro-batches each."""
    return [toy_batch(2 * ranks * step + index) for index in range(2 * ranks)]


def _reference_step(model: Any, optimizer: torch.optim.Optimizer, step: int, ranks: int = 1) -> None:
    preprocess, batches = Preprocessor().train(), _batches(step, ranks)
    optimizer.zero_grad()
    for batch in batches:
        losses = model.loss(*preprocess(batch))
        (sum(losses.values()) / len(batches)).backward()
    optimizer.step()


def _require_equal(state: dict[str, Any], expected: dict[str, Any], when: str, tolerance: float = 0.0) -> None:
    other = sorted(state.keys() ^ expected.keys())
    require(not other, f"{when} the state has other keys: {other}")
    for name, value in expected.items():
        worst = float((state[name].cpu() - value.cpu()).abs().max())
        require(worst <= tolerance, f"{when} {name} differs by {worst:.1e}")
