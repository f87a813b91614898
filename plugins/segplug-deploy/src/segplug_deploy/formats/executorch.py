"""`ExecuTorchExporter`: a segmentor for phones and small devices, ``.pte``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from segplug_deploy.certificate import Evidence
from segplug_deploy.exporter import OPEN_BATCH, OPEN_SIZE, Dynamic, FormatExporter, conformance_exceptions
from segplug_deploy.formats.capture import capture, quiet
from segplug_deploy.graph import Graph
from segplug_deploy.runtime import ExportedSegmentor, cpu_only, missing, only_file, opening, require

METADATA = "segkernel_metadata"
"""Name of the method that returns the metadata, JSON as a tensor of bytes."""
LARGEST = 2
"""Dynamic sides are at most this many times those of the example: ExecuTorch plans the memory of the largest."""


class ExecuTorchExporter(FormatExporter):
    """Lower the program of `torch.export` to ExecuTorch with XNNPACK's kernels; verify it with its runtime on the CPU.

    Batch and size are fixed by default. Dynamic ones are at most twice the example's.
    """

    suffix = ".pte"
    usual_dynamic: ClassVar[Dynamic] = False
    conformance_exceptions: ClassVar = conformance_exceptions(missing("executorch"))

    def require(self) -> None:
        require("exporting to ExecuTorch", "executorch", "executorch")

    def write(self, graph: Graph, path: Path, images: Tensor, stored: Mapping[str, str], evidence: Evidence) -> None:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = capture(graph, images, self.dynamic, self._bounded(graph, images))
        described = torch.tensor(list(json.dumps(dict(stored)).encode()), dtype=torch.uint8)
        with quiet():
            lowered = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()], constant_methods={METADATA: described}
            ).to_executorch()
        path.write_bytes(lowered.buffer)

    def open(self, path: Path, device: str | None) -> ExecuTorchSegmentor:
        return ExecuTorchSegmentor(path, device)

    def _bounded(self, graph: Graph, images: Tensor) -> Any:
        """Return the dynamic axes with their bounds."""
        if not self.dynamic:
            return None
        dynamic, first = torch.export.Dim.DYNAMIC, 1 if graph.interface.preprocess else 2
        axes = {0: dynamic(min=1, max=8)} if self.dynamic in OPEN_BATCH else {}
        if self.dynamic in OPEN_SIZE:
            axes |= {axis: dynamic(min=32, max=LARGEST * images.shape[axis]) for axis in (first, first + 1)}
        return (axes,)


class ExecuTorchSegmentor(ExportedSegmentor):
    """Runs a file of `ExecuTorchExporter` with ExecuTorch's Python runtime.

    Args:
        path: The file.
        device: ``cpu``.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        path = only_file(Path(path))
        require("running an ExecuTorch file", "executorch", "executorch")
        from executorch.runtime import Runtime

        place = cpu_only(device, path)
        with opening(path, "an ExecuTorch program"):
            program = Runtime.get().load_program(path)
            described = program.load_method(METADATA).execute(())[0]
            method = program.load_method("forward")
            stored = json.loads(bytes(described.tolist()).decode())
        super().__init__(path, stored, place)
        self.program, self.method = program, method  # the method uses the program's memory

    def run(self, images: Tensor) -> list[Tensor]:
        # The runtime reuses its output's memory in the next call.
        return [value.clone() for value in self.method.execute((images.cpu(),))]
