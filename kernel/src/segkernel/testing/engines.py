"""Checks of engines, against a training loop of a few lines, on the processor."""

from __future__ import annotations

import copy
from typing import Any

import torch

from segkernel.inference import Preprocessor
from segkernel.interfaces.model import Engine
from segkernel.testing.core import Subject, check, require
from segkernel.testing.toys import ToySegmentor, toy_batch

STEPS = 20


@check("engines", name="interface")
def interface(subject: Subject) -> None:
    """It is a `segkernel.interfaces.model.Engine` with a device."""
    engine = _build(subject)
    require(isinstance(engine, Engine), "it does not build a segkernel.interfaces.model.Engine")
    require(isinstance(engine.device, torch.device), f"device is {engine.device!r}, not a torch.device")


@check("engines", name="training")
def training(subject: Subject) -> None:
    """Twenty steps of two micro-batches end, bit for bit, where a plain loop ends."""
    engine, *_ = _prepared(subject)
    expected, reference = _parts()
    for step in range(STEPS):
        values = engine.train_step(_batches(step))
        _reference_step(expected, reference, step)
    require("loss" in values, f"train_step returned no 'loss': {sorted(values)}")
    require(not values["loss"].requires_grad, "what train_step returns is not detached")
    _require_equal(engine.model_state(), expected.state_dict(), f"after {STEPS} steps")


@check("engines", name="resume")
def resume(subject: Subject) -> None:
    """Ten steps, a restart from the saved state, and ten more give what twenty give."""
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
    """``predict`` and ``evaluate_loss`` give what the model gives, without a gradient."""
    engine, model, _ = _prepared(subject)
    model.eval()
    batch = toy_batch(0).to(engine.device)
    images, _ = Preprocessor().to(engine.device).eval()(batch)
    expected = copy.deepcopy(model).predict(images)
    scores = engine.predict(images)["seg"]
    require(torch.equal(scores, expected["seg"]), "predict differs from the segmentor's")
    require(not scores.requires_grad, "predict keeps a gradient")
    losses = engine.evaluate_loss(batch)
    require(all(not value.requires_grad for value in losses.values()), "evaluate_loss keeps a gradient")


def _build(subject: Subject) -> Any:
    from segkernel.signature import signature

    return subject.build(**({"device": "cpu"} if "device" in signature(subject.target) else {}))


def _parts(state: dict[str, Any] | None = None) -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = ToySegmentor()
    if state is not None:
        model.load_state_dict(state)
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def _prepared(subject: Subject, state: dict[str, Any] | None = None) -> tuple[Any, Any, Any]:
    engine = _build(subject)
    model, optimizer = _parts(state)
    engine.prepare_model(model.train(), Preprocessor().train())
    return engine, model, engine.prepare_optimizer(optimizer)


def _batches(step: int) -> list[Any]:
    return [toy_batch(2 * step), toy_batch(2 * step + 1)]


def _reference_step(model: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    preprocess = Preprocessor().train()
    optimizer.zero_grad()
    for batch in _batches(step):
        losses = model.loss(*preprocess(batch))
        (sum(losses.values()) / 2).backward()
    optimizer.step()


def _require_equal(state: dict[str, Any], expected: dict[str, Any], when: str) -> None:
    require(
        state.keys() == expected.keys(), f"{when} the state has other keys: {sorted(state.keys() ^ expected.keys())}"
    )
    for name, value in expected.items():
        worst = float((state[name].cpu() - value.cpu()).abs().max())
        require(worst == 0, f"{when} {name} differs by {worst:.1e}")
