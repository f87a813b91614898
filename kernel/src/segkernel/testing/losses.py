"""Checks of losses: logits (N, K, H, W) and class ids (N, H, W) to a scalar."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel.interfaces.model import Loss
from segkernel.labels import IGNORE
from segkernel.testing.core import CheckSkipped, Subject, check, require


@check("losses", name="interface")
def interface(subject: Subject) -> None:
    """It is a `segkernel.interfaces.model.Loss` with a name that counts as a loss."""
    loss = subject.build()
    require(isinstance(loss, Loss), "it does not build a segkernel.interfaces.model.Loss")
    require(
        "loss" in getattr(loss, "name", ""),
        f"its name is {getattr(loss, 'name', None)!r}; only names with 'loss' are summed",
    )


@check("losses", name="scalar")
def scalar(subject: Subject) -> None:
    """The result is one finite number, with a gradient for the logits."""
    logits, labels = _inputs(subject)
    value = subject.build()(logits, labels)
    require(value.ndim == 0, f"the result has the shape {tuple(value.shape)}")
    require(torch.isfinite(value), f"the result is {value.item()}")
    value.backward()
    require(logits.grad is not None and logits.grad.abs().sum() > 0, "no gradient reaches the logits")


@check("losses", name="ignored-pixels")
def ignored_pixels(subject: Subject) -> None:
    """What the logits say at ignored pixels does not count."""
    loss = subject.build()
    logits, labels = _inputs(subject)
    other = torch.where(
        (labels == IGNORE).unsqueeze(1), logits.detach() + 3.0 * torch.rand_like(logits), logits.detach()
    )
    before, after = loss(logits.detach(), labels), loss(other, labels)
    require(
        torch.allclose(before, after), f"logits at ignored pixels changed the loss from {before:.6f} to {after:.6f}"
    )


@check("losses", name="all-ignored")
def all_ignored(subject: Subject) -> None:
    """A batch without any label gives zero and a finite gradient, not NaN."""
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
    if not loss.at_stride:
        raise CheckSkipped("takes logits at the labels' size")
    logits, _ = _inputs(subject, size=(4, 5))
    _, labels = _inputs(subject)
    for align_corners in (False, True):
        value = loss(logits, labels, align_corners=align_corners)
        require(value.ndim == 0 and bool(torch.isfinite(value)), f"the result is {value}, not a finite number")
        value.backward()
    require(logits.grad is not None and logits.grad.abs().sum() > 0, "no gradient reaches the logits")


@check("losses", name="gradient")
def gradient(subject: Subject) -> None:
    """The gradient is that of the value, by finite differences in float64."""
    loss = subject.build().double()
    logits, labels = _inputs(subject, size=(4, 5), dtype=torch.float64)
    require(torch.autograd.gradcheck(lambda value: loss(value, labels), (logits,)), "gradcheck fails")


def _inputs(
    subject: Subject, size: tuple[int, int] = (16, 17), dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Any]:
    classes = int(subject.inputs.get("num_classes", 4))
    channels = int(subject.inputs.get("out_channels", classes))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, *size, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (2, *size), generator=generator)
    labels[:, :2] = IGNORE
    return logits.requires_grad_(), labels
