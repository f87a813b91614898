"""`TorchScriptExporter`: a segmentor as traced TorchScript, which libtorch runs without Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segplug_deploy.certificate import Evidence
from segplug_deploy.exporter import FormatExporter
from segplug_deploy.formats.capture import METADATA, TorchFileSegmentor, quiet
from segplug_deploy.graph import Graph


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


class TorchScriptSegmentor(TorchFileSegmentor):
    """Runs a file of `TorchScriptExporter` in torch."""

    what = "TorchScript"

    def read(self, path: Path, device: torch.device) -> tuple[Any, Mapping[str, str]]:
        extra = {METADATA: ""}
        module = torch.jit.load(str(path), map_location=device, _extra_files=extra)
        return module, json.loads(extra[METADATA] or "{}")

    def graph_text(self) -> str:
        return str(self.module.inlined_graph)
