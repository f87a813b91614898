"""Outputs in a file: the tensors they consist of, and `PixelLabels`, for a file that computes the labels itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segkernel.annotations import PositiveInt
from segkernel.errors import Problem, UsageError
from segkernel.geometry import Size
from segkernel.interfaces.output import Output, PixelClasses
from segkernel.labels import Task


@dataclass(frozen=True)
class PixelLabels(Output):
    """Class ids (N, H, W), or (N, K, H, W) of 1 and 0 for ``multilabel``, instead of logits.

    They cannot be averaged, so such an output has one view of whole images: no windows, no test-time augmentation.

    Args:
        classes: Number of classes.
        task: ``multilabel`` where a pixel has any number of classes.
    """

    classes: PositiveInt
    task: Task = "multiclass"

    def resize(self, raw: Tensor, old: Size, new: Size) -> Tensor:
        """Return the nearest labels."""
        if tuple(old) == tuple(new):
            return raw
        rows, columns = (
            ((torch.arange(after, device=raw.device) + 0.5) * before / after).long()
            for before, after in zip(raw.shape[-2:], new)
        )
        return raw[..., rows, :][..., columns]

    def flip(self, raw: Tensor, size: Size) -> Tensor:
        return raw.flip(-1)

    def crop(self, raw: Tensor, size: Size) -> Tensor:
        return raw[..., : size[0], : size[1]]

    def merge(self, merged: Tensor | None, raw: Tensor) -> Tensor:
        if merged is not None:
            raise UsageError("labels of several views cannot be averaged: export the model without with_labels")
        return raw

    def decode(self, raw: Tensor, activated: bool = False) -> Tensor:
        return raw[0]

    def mismatch(self, dataset: Any) -> Problem | None:
        return PixelClasses(self.classes, self.classes, task=self.task).mismatch(dataset)


FEW = 255
"""Labels of at most this many classes are uint8."""


def has_thresholds(output: PixelClasses) -> bool:
    """Whether each class is decided by itself, and not the largest of all."""
    return output.threshold is not None and (output.task == "multilabel" or output.out_channels == 1)


def labels_of(output: PixelClasses, logits: Tensor) -> Tensor:
    """Return the labels (N, H, W), or (N, K, H, W) for ``multilabel``, of logits (N, C, H, W), as `decode` does."""
    if has_thresholds(output):
        chosen = (output.activate(logits) > (output.threshold or 0)).to(torch.uint8)
        return chosen if output.task == "multilabel" else chosen[:, 0]
    labels = logits.argmax(1)
    return labels.to(torch.uint8) if logits.shape[1] <= FEW else labels


def pack(outputs: Mapping[str, Output], raw: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors (N, ...) of each output, by their names in a file.

    An output whose raw values are more than one tensor has a method ``pack``, which names them, and its inverse
    ``unpack``. Names of the main output have no prefix.
    """
    return {name: _parts(name, outputs[name], values) for name, values in raw.items()}


def _parts(name: str, output: Output, raw: Any) -> dict[str, Tensor]:
    if not hasattr(output, "pack"):
        return {name: raw}
    prefix = _prefix(name)
    return {prefix + part: tensor for part, tensor in output.pack(raw).items()}


def unpack(name: str, output: Output, tensors: Mapping[str, Tensor]) -> Any:
    """Return the raw values of an output from its tensors, by their names in a file."""
    if not hasattr(output, "unpack"):
        return tensors[name]
    return output.unpack({part.removeprefix(_prefix(name)): tensor for part, tensor in tensors.items()})


def _prefix(name: str) -> str:
    """Return what stands before the names of the tensors of an output."""
    return "" if name == "seg" else f"{name}_"
