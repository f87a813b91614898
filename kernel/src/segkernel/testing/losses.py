"""Checks of losses: logits (N, K, H, W) and class ids (N, H, W) to a scalar."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel.labels import IGNORE
from segkernel.signature import signature
from segkernel.testing.core import Subject, check, require, skip_unless


@check("losses", name="scalar")
def scalar(subject: Subject) -> None:
    """The result is one finite number, with a gradient for the logits, and its name contains "loss"."""
    loss = subject.build()
    name = getattr(loss, "name", "")
    require("loss" in name, f"its name is {name!r}; only names with 'loss' are summed")
    logits, labels = _inputs(subject)
    _require_gradient(loss(logits, labels), logits)


@check("losses", name="ignored-pixels")
def ignored_pixels(subject: Subject) -> None:
    """Logits at ignored pixels do not count."""
    loss = subject.build()
    logits, labels = _inputs(subject)
    other = logits.detach() + 3.0 * torch.rand_like(logits) * (labels == IGNORE).unsqueeze(1)
    _require_same(loss(logits.detach(), labels), loss(other, labels), "with other logits at ignored pixels")


@check("losses", name="ignore-index")
def ignore_index(subject: Subject) -> None:
    """``ignore_index`` sets the ignored value."""
    loss = subject.build()
    logits, labels = _inputs(subject)
    usual, other = loss(logits, labels), loss(logits, labels.where(labels != IGNORE, 77), ignore_index=77)
    _require_same(usual, other, f"with 77 in place of {IGNORE}, and ignore_index=77,")


@check("losses", name="pixel-weights")
def pixel_weights(subject: Subject) -> None:
    """Pixels with ``weight`` 0 do not count, and those with 2 count at most twice."""
    loss = subject.build()
    logits, labels = (value.detach() for value in _inputs(subject))
    weight = (torch.arange(labels.shape[-1]) % 2).expand(labels.shape).to(logits.dtype)
    other = logits + 3.0 * torch.rand_like(logits) * (1 - weight).unsqueeze(1)
    before, after = loss(logits, labels, weight=weight), loss(other, labels, weight=weight)
    _require_same(before, after, "with other logits where the weight is 0")
    once, twice = (float(loss(logits, labels, weight=torch.full_like(weight, value))) for value in (1, 2))
    require(twice < 2.01 * once, f"with a weight of 2 everywhere the loss is {twice:.3f}, of 1 {once:.3f}")


@check("losses", name="loss-weight")
def loss_weight(subject: Subject) -> None:
    """``loss_weight``, if it is an argument, is a factor of the result."""
    skip_unless("loss_weight" in signature(subject.target), "no argument loss_weight")
    inputs = _inputs(subject)
    once, thrice = (subject.build(loss_weight=factor)(*inputs) for factor in (1.0, 3.0))
    _require_same(3 * once, thrice, "with a loss_weight of 3")


@check("losses", name="avg-factor")
def avg_factor(subject: Subject) -> None:
    """``avg_factor`` is the divisor of the sum."""
    loss = subject.build()
    inputs = _inputs(subject)
    half, whole = (loss(*inputs, avg_factor=float(factor)) for factor in (20, 10))
    _require_same(whole / 2, half, "with twice the avg_factor")


@check("losses", name="all-ignored")
def all_ignored(subject: Subject) -> None:
    """A batch without labels has a loss of zero and a finite gradient, not NaN."""
    logits, labels = _inputs(subject)
    value = subject.build()(logits, torch.full_like(labels, IGNORE))
    require(value.requires_grad, "no gradient: the backward pass would fail")
    require((value == 0).all(), f"the loss of an unlabelled batch is {value.tolist()}, not 0")
    value.backward()
    require(logits.grad is None or torch.isfinite(logits.grad).all(), "the gradient is not finite")


@check("losses", name="stride")
def stride(subject: Subject) -> None:
    """A loss that is ``at_stride`` takes logits at a quarter of the labels' size, and ``align_corners``."""
    loss = subject.build()
    skip_unless(loss.at_stride, "takes logits at the labels' size")
    logits, _ = _inputs(subject, size=(4, 5))
    _, labels = _inputs(subject)
    for align_corners in (False, True):
        _require_gradient(loss(logits, labels, align_corners=align_corners), logits)


@check("losses", name="gradient")
def gradient(subject: Subject) -> None:
    """The gradient is correct, by finite differences in float64."""
    loss = subject.build().double()
    logits, labels = _inputs(subject, size=(4, 5), dtype=torch.float64)
    require(torch.autograd.gradcheck(lambda value: loss(value, labels), (logits,)), "gradcheck fails")


def _require_gradient(value: Tensor, logits: Tensor) -> None:
    require(value.ndim == 0, f"the result has the shape {tuple(value.shape)}")
    require(torch.isfinite(value), f"the result is {value.item()}")
    value.backward()
    require(logits.grad is not None and logits.grad.abs().sum() > 0, "no gradient reaches the logits")


def _require_same(expected: Tensor, found: Tensor, when: str) -> None:
    require(torch.allclose(expected, found), f"{when} the loss is {found.tolist()}, not {expected.tolist()}")


def _inputs(subject: Subject, size: tuple[int, int] = (16, 17), dtype: Any = torch.float32) -> tuple[Tensor, Any]:
    classes = int(subject.inputs.get("num_classes", 4))
    channels = int(subject.inputs.get("out_channels", classes))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, *size, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (2, *size), generator=generator)
    labels[:, :2] = IGNORE
    return logits.requires_grad_(), labels
