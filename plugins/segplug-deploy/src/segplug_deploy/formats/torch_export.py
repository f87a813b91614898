"""`TorchExportExporter`: a segmentor as a program of `torch.export`, ``.pt2``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from segkernel.errors import ExportError
from segplug_deploy.certificate import Evidence
from segplug_deploy.exporter import FormatExporter
from segplug_deploy.formats.capture import capture, quiet
from segplug_deploy.graph import Graph
from segplug_deploy.runtime import ExportedSegmentor, cpu_or_cuda, first_line, only_file

METADATA = "segkernel.json"
"""Name of the metadata's entry in the file."""


class TorchExportExporter(FormatExporter):
    """Write a program of `torch.export`; verify it on the CPU.

    It holds operators of torch and the weights, and no Python of the model: other compilers start from it.
    """

    suffix = ".pt2"
    runs_code = True

    def write(self, graph: Graph, path: Path, images: Tensor, stored: Mapping[str, str], evidence: Evidence) -> None:
        program = capture(graph, images, self.dynamic)
        with quiet():
            torch.export.save(program, path, extra_files={METADATA: json.dumps(stored)})

    def open(self, path: Path, device: str | None) -> TorchExportSegmentor:
        return TorchExportSegmentor(path, device)


class TorchExportSegmentor(ExportedSegmentor):
    """Runs a file of `TorchExportExporter` in torch.

    Args:
        path: The file.
        device: ``cpu`` or ``cuda``; None is CUDA if there is one.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        path = only_file(Path(path))
        place, extra = cpu_or_cuda(device, path), {METADATA: ""}
        try:
            with quiet():
                program = torch.export.load(path, extra_files=extra)
                if place.type != "cpu":
                    from torch.export.passes import move_to_device_pass

                    program = move_to_device_pass(program, str(place))
                # Guards also hold what is irrelevant here, such as memory layouts; the sizes are checked by `predict`.
                module = program.module(check_guards=False)
            stored = json.loads(extra[METADATA] or "{}")
        except Exception as error:  # the reader can stop with any exception on a damaged archive
            reason = first_line(error)
            raise ExportError(f"{path}: cannot be opened as a program of torch.export: {reason}") from error
        super().__init__(path, stored, place)
        self.module = module

    @torch.no_grad()
    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.module(images.to(self.device))
