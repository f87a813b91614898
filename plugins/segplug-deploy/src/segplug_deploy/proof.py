"""Comparison of an exported model with the torch model.

proofs = prove(segmentor, exported, [images])
print(table(proofs))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from segkernel.errors import ExportError
from segkernel.interfaces.output import Output, PixelMap
from segplug_deploy.outputs import pack


class Predicts(Protocol):
    """A segmentor, or the graph of an exported one."""

    outputs: dict[str, Output]

    def predict(self, images: Tensor) -> dict[str, Any]:
        """Return the raw values of every output for normalised images (N, C, H, W)."""


@dataclass(frozen=True)
class Proof:
    """The difference of one tensor of an output of two models on one batch.

    Args:
        output: Name of the output, or of its tensor where it has several.
        shape: Shape of the images, (N, C, H, W).
        difference: Largest absolute difference of the logits; 0 for labels.
        relative: The same as a share of the largest logit.
        agreement: Share of pixels with the same label, 0 to 1; of all values of a tensor of integers; 1 for others.
    """

    output: str
    shape: tuple[int, ...]
    difference: float
    relative: float
    agreement: float

    def holds(self, tolerance: float, agreement: float) -> bool:
        """Return whether the difference is within bounds; false for NaN."""
        return self.relative <= tolerance and self.agreement >= agreement


def prove(
    segmentor: Predicts,
    exported: Predicts,
    batches: Iterable[Tensor],
    tolerance: float = 1e-3,
    agreement: float = 0.999,
) -> list[Proof]:
    """Compare every output of both models on every batch of normalised images (N, C, H, W).

    Raises:
        ExportError: When a relative difference is above ``tolerance`` or fewer than ``agreement`` of the labels are
            the same; the message contains all values.
    """
    proofs = [proof for images in batches for proof in _compare(segmentor, exported, images)]
    if not all(proof.holds(tolerance, agreement) for proof in proofs):
        wanted = f"relative difference up to {tolerance:g}, same labels from {agreement:.1%}"
        raise ExportError(f"the exported model's outputs differ from the torch model's ({wanted})\n{table(proofs)}")
    return proofs


@torch.no_grad()
def _compare(segmentor: Predicts, exported: Predicts, images: Tensor) -> list[Proof]:
    expected, given = segmentor.predict(images), exported.predict(images)
    if list(expected) != list(given):
        raise ExportError(f"the exported model has outputs {list(given)} instead of {list(expected)}")
    proofs, packed = [], pack(segmentor.outputs, given)
    for name, tensors in pack(segmentor.outputs, expected).items():
        is_map = isinstance(segmentor.outputs[name], PixelMap)
        for part, tensor in tensors.items():
            proofs.append(_proof(part, tuple(images.shape), tensor, packed[name][part], is_map))
    return proofs


def _proof(name: str, shape: tuple[int, ...], expected: Tensor, given: Tensor, is_map: bool) -> Proof:
    if expected.shape != given.shape:
        sizes = f"{tuple(given.shape)} instead of {tuple(expected.shape)}"
        raise ExportError(f"output {name!r} of the exported model is {sizes} for images {shape}")
    if not expected.is_floating_point():
        return Proof(name, shape, 0.0, 0.0, _share_of_equal(expected, given))
    expected, given = expected.double(), given.double()
    difference = (expected - given).abs().max().item()
    largest = expected.abs().max().item()
    same = _share_of_equal(_labels(expected), _labels(given)) if is_map else 1.0
    return Proof(name, shape, difference, difference / largest if largest else difference, same)


def _share_of_equal(expected: Tensor, given: Tensor) -> float:
    return (expected == given).double().mean().item()


def _labels(logits: Tensor) -> Tensor:
    return logits.argmax(1) if logits.shape[1] > 1 else logits > 0


def table(proofs: Sequence[Proof]) -> str:
    """Return the proofs as aligned lines."""
    lines = [f"{'output':<10} {'images':>18} {'difference':>12} {'relative':>10} {'same labels':>12}"]
    for proof in proofs:
        shape = "x".join(str(length) for length in proof.shape)
        numbers = f"{proof.difference:>12.2e} {proof.relative:>10.1e} {proof.agreement:>12.3%}"
        lines.append(f"{proof.output:<10} {shape:>18} {numbers}")
    return "\n".join(lines)
