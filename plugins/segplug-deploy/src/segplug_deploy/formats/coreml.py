"""`CoreMLExporter`: a segmentor for Apple's devices, ``.mlpackage``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from segkernel.errors import ExportError
from segplug_deploy.certificate import Evidence
from segplug_deploy.exporter import Dynamic, ExporterArguments, VerifiedExporter, conformance_exceptions
from segplug_deploy.formats.capture import capture, quiet
from segplug_deploy.graph import Graph
from segplug_deploy.runtime import PREFIX, ExportedSegmentor, cpu_only, missing, opening, require


class CoreMLExporter(VerifiedExporter):
    """Convert the program of `torch.export` to an ML program of Core ML, a folder; verify it on macOS.

    Other systems write the file with ``verify: false`` only, as Core ML runs on Apple's alone. Sizes are fixed.

    Args:
        precision: In which precision it computes; ``float16`` is needed for the neural engine.
    """

    suffix = ".mlpackage"
    usual_dynamic: ClassVar[Dynamic] = False
    conformance_exceptions: ClassVar = conformance_exceptions(
        missing("coremltools") or (None if sys.platform == "darwin" else "Core ML runs on macOS only")
    )

    def __init__(
        self, precision: Literal["float32", "float16"] = "float32", **kwargs: Unpack[ExporterArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.precision = precision

    def require(self) -> None:
        require("exporting to Core ML", "coreml", "coremltools")
        if self.dynamic:
            raise ExportError("Core ML files have fixed sizes here: dynamic: false")
        if self.interface.preprocess:
            raise ExportError("Core ML takes no uint8 tensors: export without with_preprocess")
        if self.verify and sys.platform != "darwin":
            raise ExportError("Core ML runs on macOS only, so the file cannot be verified here\n    verify: false")

    def write(self, graph: Graph, path: Path, images: Tensor, stored: Mapping[str, str], evidence: Evidence) -> None:
        import coremltools

        half = self.precision == "float16"
        with quiet():
            model = coremltools.convert(
                capture(graph, images, self.dynamic).run_decompositions({}),
                outputs=[coremltools.TensorType(name=name) for name in graph.names],
                convert_to="mlprogram",
                compute_precision=coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32,
            )
        model.user_defined_metadata.update(stored)
        model.save(str(path))

    def open(self, path: Path, device: str | None) -> CoreMLSegmentor:
        return CoreMLSegmentor(path, device)


class CoreMLSegmentor(ExportedSegmentor):
    """Runs a package of `CoreMLExporter` on macOS; Core ML chooses between CPU, GPU and neural engine.

    Args:
        path: The package, a folder.
        device: ``cpu``: where the images and the results are.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        path = Path(path)
        if not path.exists():
            raise ExportError(f"{path}: no such file")
        require("running a Core ML package", "coreml", "coremltools")
        import coremltools

        place = cpu_only(device, path)
        with opening(path, "a Core ML package"):
            model: Any = coremltools.models.MLModel(str(path))
            stored = {key: text for key, text in model.user_defined_metadata.items() if key.startswith(PREFIX)}
        super().__init__(path, stored, place)
        self.model = model

    def run(self, images: Tensor) -> list[Tensor]:
        values = self.model.predict({"images": images.cpu().numpy()})
        return [torch.from_numpy(values[name]) for name in self.names]
