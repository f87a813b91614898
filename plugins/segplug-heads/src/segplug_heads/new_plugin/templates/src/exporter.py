"""An exported file format, and the runtime that loads it: ``seg-kernel export ... model.mymodel``."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkernel.errors import ExportError
from segkernel.interfaces.model import Exporter, Segmentor, output_of
from segkernel.sample import Targets

TOLERANCE = 1e-4
"""Largest accepted difference of two logits."""


class MyModelExporter(Exporter):
    """Programs of ``torch.export`` for images of the example's size."""

    suffix = ".mymodel"

    def export(
        self, segmentor: Segmentor, path: Path, example: Tensor, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Write the file, and compare what it predicts with the model."""
        model = copy.deepcopy(segmentor).cpu().eval()  # the caller may still be training it
        program = torch.export.export(PredictModule(model), (example,))
        outputs = {name: output.config() for name, output in model.outputs.items()}
        with path.open("wb") as file:  # torch.export.save complains about other suffixes than .pt2
            texts = {"outputs": json.dumps(outputs), "metadata": json.dumps(dict(metadata or {}))}
            torch.export.save(program, file, extra_files=texts)
        with torch.no_grad():
            difference = float((self.load(path)(example) - model(example)).abs().max())
        if difference > TOLERANCE:
            raise ExportError(f"{path}: differs from the model by {difference:.1e}")
        return f"{path.name}: largest difference {difference:.1e}"

    def load(self, path: Path, device: str | None = None) -> Segmentor:
        """Return the file as a segmentor that only predicts, on the CPU."""
        if device not in (None, "cpu"):
            raise ExportError(f"{path}: runs on the CPU, not on {device}")
        texts = {"outputs": "", "metadata": ""}
        try:
            with path.open("rb") as file:
                program = torch.export.load(file, extra_files=texts)
        except Exception as error:  # torch raises many types
            raise ExportError(f"{path}: not an exported program: {error}") from error
        return ProgramSegmentor(program.module(), json.loads(texts["outputs"]), json.loads(texts["metadata"]))


class PredictModule(nn.Module):
    """A segmentor whose ``forward`` is ``predict``."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Return the raw values of all outputs."""
        return self.segmentor.predict(images)


class ProgramSegmentor(Segmentor):
    """An exported program as a segmentor."""

    def __init__(self, program: nn.Module, outputs: dict[str, Any], metadata: dict[str, Any]) -> None:
        super().__init__()
        self.program, self.metadata = program, metadata
        self.outputs = {name: output_of(spec) for name, spec in outputs.items()}
        self.test_cfg = {"mode": "whole"}

    def train(self, mode: bool = True) -> ProgramSegmentor:
        """Do nothing: an exported program has only one mode."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.predict(images)["seg"]

    def predict(self, images: Tensor) -> dict[str, Any]:
        return self.program(images)

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        raise ExportError("an exported program only predicts")
