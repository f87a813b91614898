"""Every head supports the task it declares or refuses it: multiclass, binary or multilabel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from segkernel import build
from segkernel.catalog import Catalog
from segkernel.errors import ConfigError
from segkernel.labels import Task
from segkernel.nn import CrossEntropyLoss, DecodeHead
from segplug_heads.losses.dice_loss import DiceLoss
from segplug_heads.losses.focal_loss import FocalLoss

TASKS: tuple[Task, ...] = ("multiclass", "binary", "multilabel")
YES_NO = [{"type": "CrossEntropyLoss", "use_sigmoid": True}, {"type": "DiceLoss"}, {"type": "FocalLoss"}]


def decode_heads() -> list[str]:
    catalog = Catalog.discover()
    found = [row for row in catalog.rows_of("heads") if row.distribution == "segplug-heads"]
    return [row.name for row in found if issubclass(catalog.load_row(row), DecodeHead)]


def make(**arguments: Any) -> DecodeHead:
    return build("heads", {"type": "FCNHead", "in_channels": 4, "channels": 4, "num_classes": 2, **arguments})


def labels(task: Task, channels: int = 2) -> torch.Tensor:
    shape = (2, channels, 16, 16) if task == "multilabel" else (2, 16, 16)
    drawn = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0))
    drawn[..., :4] = 255
    return drawn


@pytest.mark.parametrize("name", decode_heads())
@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_a_head_is_made_for_a_task_or_refuses(name: str, task: Task) -> None:
    cls = Catalog.discover().load("heads", name)
    example = getattr(cls, "conformance", {"in_channels": 16, "channels": 8})
    spec = {**(example if isinstance(example, Mapping) else example[0]), "type": name, "num_classes": 2}
    if "task" in getattr(cls, "fixed_arguments", ()) or not cls.learns_classes:
        return  # its labels are its own
    if task not in cls.tasks:
        with pytest.raises(ConfigError, match=f"does not support task {task}"):
            build("heads", {**spec, "task": task})
        return
    head = build("heads", {**spec, "task": task})
    channels = 1 if task == "binary" else 2
    assert (head.output.out_channels, head.output.activation, head.output.threshold) == (channels, "sigmoid", 0.5)
    scores = torch.randn(2, channels, 8, 8, requires_grad=True)
    losses = head.loss_by_logits(scores, labels(task))
    losses["loss_ce"].backward()
    assert scores.grad is not None
    assert scores.grad[..., 3:].abs().sum() > 0
    wide = [module for module in head.modules() if isinstance(module, nn.Conv2d) and module.out_channels == 1]
    assert task == "multilabel" or "conv_seg" not in dict(head.named_modules()) or wide


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@pytest.mark.parametrize("loss", [CrossEntropyLoss(use_sigmoid=True, avg_non_ignore=True), DiceLoss(), FocalLoss()])
def test_binary_losses_exclude_unknown_pixels(task: Task, loss: Any) -> None:
    head = make(task=task, loss_decode=loss)
    target = labels(task)
    scores = torch.randn(2, head.out_channels, 16, 16)
    known = head.loss_by_logits(scores, target)
    changed = torch.where(torch.arange(16) < 4, torch.tensor(9.0), scores)
    again = head.loss_by_logits(changed, target)
    assert torch.allclose(known[loss.name], again[loss.name])
    assert torch.equal(known["acc_seg"], again["acc_seg"])
    right = torch.where(target == 1, 20.0, -20.0)
    best = head.loss_by_logits(right if task == "multilabel" else right[:, None], target)
    assert best["acc_seg"] == 100
    assert best[loss.name] < 0.01
    nothing = head.loss_by_logits(scores, torch.full_like(target, 255))
    assert nothing[loss.name] == 0


def test_binary_cross_entropy_by_hand() -> None:
    scores = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    target = torch.tensor([1, 0]).view(1, 2, 1, 1)
    loss = CrossEntropyLoss(use_sigmoid=True, class_weight=[3.0, 5.0])
    expected = (3 * torch.log(torch.tensor(2.0)) + torch.log1p(torch.exp(torch.tensor(2.0)))) / 2
    assert torch.allclose(loss(scores, target), expected)
    assert torch.allclose(loss(scores, target, weight=torch.full((1, 1, 1), 2.0)), 2 * expected)
    one = CrossEntropyLoss(use_sigmoid=True, class_weight=[2.0, 7.0])  # of no and yes
    logits, wanted = torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 1]]])
    assert torch.allclose(one(logits, wanted), 4.5 * torch.log(torch.tensor(2.0)))
    assert torch.allclose(one(logits, wanted[:, None]), 4.5 * torch.log(torch.tensor(2.0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "binary", "num_classes": 3}, "num_classes: task binary has 2 classes, not 3"),
        ({"task": "binary", "out_channels": 2}, "out_channels: task binary with 2 classes has 1 channels, not 2"),
        ({"task": "multilabel", "out_channels": 1}, "out_channels: task multilabel with 2 classes has 2 channels"),
        ({"task": "multiclass", "out_channels": 1}, "out_channels: task multiclass with 2 classes has 2 channels"),
        ({"task": "multiclass", "threshold": 0.4}, "threshold: task multiclass takes the argmax"),
        ({"task": "binary", "sampler": {"type": "OHEMPixelSampler"}}, "sampler: OHEMPixelSampler samples by a softmax"),
        ({"task": "binary", "loss_decode": {"type": "LovaszLoss"}}, "LovaszLoss is not a binary loss here"),
        ({"task": "multilabel", "loss_decode": {"type": "CrossEntropyLoss"}}, "with use_sigmoid: true"),
    ],
)
def test_contradictions_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**arguments)


def test_labels_of_another_task_are_refused() -> None:
    for task, target in (
        ("binary", labels("multilabel")),
        ("multilabel", labels("binary")),
        (None, labels("multilabel")),
    ):
        with pytest.raises(ConfigError, match="labels of shape"):
            make(task=task).loss_by_logits(torch.randn(2, 1 if task == "binary" else 2, 8, 8), target)


def test_without_a_task_behaviour_is_unchanged() -> None:
    assert make().output.threshold is None
    assert (make(out_channels=1).output.threshold, make(out_channels=1).output.task) == (0.3, "binary")
    assert not make().loss_decode.use_sigmoid
