"""The module that is exported: a segmentor, on request with preprocessing before it and labels after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from segkernel import build
from segkernel.errors import ExportError
from segkernel.inference import Preprocessor
from segkernel.interfaces.model import Segmentor
from segkernel.interfaces.output import Output, PixelClasses, PixelMap
from segplug_deploy.formats.labels_loop import resized_argmax
from segplug_deploy.outputs import FEW, PixelLabels, has_thresholds, labels_of, pack


@dataclass(frozen=True)
class Interface:
    """What a file takes and returns.

    Args:
        preprocess: Whether it takes uint8 RGB images (N, H, W, C); else normalised ones, (N, C, H, W) float32.
        labels: Whether it returns labels at the size of the images; else logits, at any size.
    """

    preprocess: bool = False
    labels: bool = False


class Graph(nn.Module):
    """Images, as the `Interface` says, to a tuple of the tensors of every output, in the segmentor's order.

    Args:
        segmentor: In evaluation mode.
        interface: What the graph takes and returns.
        preprocess: Arguments of `Preprocessor`; necessary for ``interface.preprocess``.
        by_class: Whether labels are the result of one operator, `resized_argmax`; set by exporters that translate it.
    """

    by_class = False

    def __init__(self, segmentor: Segmentor, interface: Interface, preprocess: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.segmentor, self.interface = segmentor, interface
        if interface.preprocess and not preprocess:
            raise ExportError("with_preprocess needs the preprocessing of the model, in metadata['preprocess']")
        self.pixels = Pixels(preprocess or {})
        self.padded = interface.preprocess and self.pixels.divisor > 1
        self.outputs = {name: self._output(output) for name, output in segmentor.outputs.items()}
        self.tensors = {name: [name] for name in self.outputs}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.interface.preprocess:
            images = self.pixels.normalise(images)
        return tuple(tensor for parts in pack(self.outputs, self.predict(images)).values() for tensor in parts.values())

    @torch.no_grad()
    def name_tensors(self, images: Tensor) -> None:
        """Set the names of the tensors of each output, as they are for normalised images (N, C, H, W)."""
        if any(hasattr(output, "pack") for output in self.outputs.values()):
            self.tensors = {name: list(parts) for name, parts in pack(self.outputs, self.predict(images)).items()}

    @property
    def names(self) -> list[str]:
        """The names of what `forward` returns."""
        return [name for parts in self.tensors.values() for name in parts]

    def predict(self, images: Tensor) -> dict[str, Any]:
        """Return the raw values of every output for normalised images (N, C, H, W)."""
        height, width = images.shape[-2:]
        if self.padded:
            images = self.pixels.pad(images)
        raw = self.segmentor.predict(images)
        if not self.interface.labels:
            return raw
        return {name: self._finish(name, values, images, height, width) for name, values in raw.items()}

    def _finish(self, name: str, raw: Tensor, images: Tensor, height: int, width: int) -> Tensor:
        output, size = self.segmentor.outputs[name], (images.shape[-2], images.shape[-1])
        if self.by_class and isinstance(output, PixelClasses) and not has_thresholds(output):
            labels = resized_argmax(raw, *size, output.align_corners, raw.shape[1] <= FEW)
            return output.crop(labels, (height, width))
        full = output.resize(raw, size, size)
        if self.padded:  # else the slices become operators that Core ML does not have
            full = output.crop(full, (height, width))
        return labels_of(output, full) if isinstance(output, PixelClasses) else full

    def _output(self, output: Output) -> Output:
        if not self.interface.labels:
            return output
        if not isinstance(output, PixelMap):
            raise ExportError(f"with_labels is for maps of classes, not for {type(output).__name__}")
        return PixelLabels(output.classes, output.task) if isinstance(output, PixelClasses) else output


class Pixels(nn.Module):
    """Conversion between uint8 RGB images and normalised ones, by the arguments of a `Preprocessor`."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Mapping[str, Any]) -> None:
        super().__init__()
        known = build(Preprocessor, preprocess, path="preprocess")
        self.register_buffer("mean", known.mean)
        self.register_buffer("std", known.std)
        config = known.config()
        self.reverse = config["channel_order"] == "bgr"
        padding = config["test_cfg"] or {}
        if padding.get("size"):
            raise ExportError("with_preprocess supports the padding preprocess.test_cfg.size_divisor only, not size")
        self.divisor: int = padding.get("size_divisor") or 1

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return (N, H, W, C) uint8 as (N, C, H, W) float32."""
        images = pixels.permute(0, 3, 1, 2).float()
        return ((images.flip(1) if self.reverse else images) - self.mean) / self.std

    def restore(self, images: Tensor) -> Tensor:
        """Return normalised images (N, C, H, W) as (N, H, W, C) uint8; the inverse of `normalise`."""
        pixels = images.float() * self.std.to(images.device) + self.mean.to(images.device)
        pixels = pixels.flip(1) if self.reverse else pixels
        return pixels.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def pad(self, images: Tensor) -> Tensor:
        """Return images padded with 0 at the bottom and right to a multiple of the model's size."""
        bottom, right = -images.shape[-2] % self.divisor, -images.shape[-1] % self.divisor
        return pad(images, (0, right, 0, bottom))
