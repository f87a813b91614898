"""`TorchExportExporter`: a segmentor as a program of `torch.export`, ``.pt2``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segplug_deploy.certificate import Evidence
from segplug_deploy.exporter import FormatExporter
from segplug_deploy.formats.capture import METADATA, TorchFileSegmentor, capture, quiet
from segplug_deploy.graph import Graph


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


class TorchExportSegmentor(TorchFileSegmentor):
    """Runs a file of `TorchExportExporter` in torch."""

    what = "a program of torch.export"

    def read(self, path: Path, device: torch.device) -> tuple[Any, Mapping[str, str]]:
        extra = {METADATA: ""}
        program = torch.export.load(path, extra_files=extra)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        # Guards also hold what is irrelevant here, such as memory layouts; the sizes are checked by `predict`.
        return program.module(check_guards=False), json.loads(extra[METADATA] or "{}")

    def graph_text(self) -> str:
        return str(self.module.graph)
