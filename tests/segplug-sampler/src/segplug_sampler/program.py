"""An exporter to torch's exported programs."""

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


class ProgramExporter(Exporter):
    """Write a ``.pt2`` file for images of the example's size."""

    suffix = ".pt2"

    def export(
        self, segmentor: Segmentor, path: Path, example: Tensor, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Write the file, and compare it with the model."""
        model = copy.deepcopy(segmentor).eval()  # the caller may still be training it
        program = torch.export.export(_Predicts(model), (example,))
        outputs = {name: output.config() for name, output in model.outputs.items()}
        texts = {"outputs": json.dumps(outputs), "metadata": json.dumps(dict(metadata or {}))}
        torch.export.save(program, path, extra_files=texts)
        with torch.no_grad():
            worst = (self.load(path).predict(example)["seg"] - model.predict(example)["seg"]).abs().max().item()
        if worst > 1e-4:
            raise ExportError(f"{path}: differs from the model by {worst:.1e}")
        return f"{path.name}: largest difference {worst:.1e}"

    def load(self, path: Path, device: str | None = None) -> Segmentor:
        """Return the file as a segmentor; it runs on the device of the export."""
        if device not in (None, "cpu"):
            raise ExportError(f"{path}: only runs on the CPU, not on {device}")
        texts = {"outputs": "", "metadata": ""}
        try:
            program = torch.export.load(path, extra_files=texts)
        except Exception as error:  # torch raises many types
            raise ExportError(f"{path}: not an exported program: {error}") from error
        return _Program(program.module(), json.loads(texts["outputs"]), json.loads(texts["metadata"]))


class _Predicts(nn.Module):
    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.segmentor.predict(images)


class _Program(Segmentor):
    def __init__(self, program: nn.Module, outputs: dict[str, Any], metadata: dict[str, Any]) -> None:
        super().__init__()
        self.program, self.metadata = program, metadata
        self.outputs = {name: output_of(spec) for name, spec in outputs.items()}
        self.test_cfg = {"mode": "whole"}

    def train(self, mode: bool = True) -> _Program:
        """Do nothing: an exported program has only one mode."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.predict(images)["seg"]

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return self.program(images)

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        raise ExportError("an exported program only predicts")
