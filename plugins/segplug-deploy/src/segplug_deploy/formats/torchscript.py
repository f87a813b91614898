"""`TorchScriptExporter`: a segmentor as traced TorchScript, which libtorch runs without Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from segkernel.errors import ExportError
from segplug_deploy.certificate import Evidence
from segplug_deploy.exporter import FormatExporter
from segplug_deploy.formats.capture import quiet
from segplug_deploy.graph import Graph
from segplug_deploy.runtime import ExportedSegmentor, cpu_or_cuda, first_line, only_file

METADATA = "segkernel.json"
"""Name of the metadata's entry in the file."""


class TorchScriptExporter(FormatExporter):
    """Write TorchScript with `torch.jit.trace`; verify it on the CPU.

    A trace has the sizes of its example where a model computes them in Python. Such a model is refused when sizes are
    dynamic, since the file differs at other sizes.
    """

    suffix = ".torchscript"
    runs_code = True

    def write(self, graph: Graph, path: Path, images: Tensor, stored: Mapping[str, str], evidence: Evidence) -> None:
        with quiet():
            traced = torch.jit.trace(graph, (images,), check_trace=False)
            torch.jit.save(traced, str(path), _extra_files={METADATA: json.dumps(stored)})

    def open(self, path: Path, device: str | None) -> TorchScriptSegmentor:
        return TorchScriptSegmentor(path, device)


class TorchScriptSegmentor(ExportedSegmentor):
    """Runs a file of `TorchScriptExporter` in torch.

    Args:
        path: The file.
        device: ``cpu`` or ``cuda``; None is CUDA if there is one.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        path = only_file(Path(path))
        place, extra = cpu_or_cuda(device, path), {METADATA: ""}
        try:
            with quiet():
                module = torch.jit.load(str(path), map_location=place, _extra_files=extra)
            stored = json.loads(extra[METADATA] or "{}")
        except (RuntimeError, ValueError) as error:
            reason = first_line(error)
            raise ExportError(f"{path}: cannot be opened as TorchScript: {reason}") from error
        super().__init__(path, stored, place)
        self.module = module

    @torch.no_grad()
    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.module(images.to(self.device))
