"""`OpenVINOExporter`: a segmentor for OpenVINO, ``.xml`` with its weights in ``.bin``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from segkernel.errors import ExportError
from segplug_deploy.certificate import Evidence
from segplug_deploy.exporter import ExporterArguments, Precision, VerifiedExporter, conformance_exceptions
from segplug_deploy.formats.onnx import require_onnx, write_onnx
from segplug_deploy.graph import Graph
from segplug_deploy.runtime import PREFIX, ExportedSegmentor, cpu_only, missing, only_file, require

SECTION = "segkernel"
"""Of the model's runtime information, with the metadata."""


class OpenVINOExporter(VerifiedExporter):
    """Write OpenVINO's format, from ONNX, and verify it with OpenVINO on the CPU.

    The weights are in a second file, ``NAME.bin``, which must stay next to the first.

    Args:
        precision: ``float16`` stores the weights in half the space and computes in the precision that the device
            prefers; ``int8`` is quantised as by `ONNXExporter`.
    """

    suffix = ".xml"
    conformance_exceptions: ClassVar = conformance_exceptions(missing("openvino"))

    def __init__(self, precision: Precision = "float32", **kwargs: Unpack[ExporterArguments]) -> None:
        super().__init__(**kwargs)
        self.precision = precision

    def require(self) -> None:
        require_onnx()
        require("exporting to OpenVINO", "openvino", "openvino")

    def write(self, graph: Graph, path: Path, images: Tensor, stored: Mapping[str, str], evidence: Evidence) -> None:
        import openvino

        onnx, half = path.with_suffix(".onnx"), self.precision == "float16"
        write_onnx(graph, onnx, images, stored, evidence, self.dynamic, "float32" if half else self.precision)
        model = openvino.convert_model(onnx)
        for key, value in stored.items():
            model.set_rt_info(value, [SECTION, key.removeprefix(PREFIX)])
        openvino.save_model(model, path, compress_to_fp16=half)
        for leftover in path.parent.glob(f"{onnx.name}*"):
            leftover.unlink()

    def open(self, path: Path, device: str | None) -> OpenVINOSegmentor:
        return OpenVINOSegmentor(path, device)


class OpenVINOSegmentor(ExportedSegmentor):
    """Runs a file of `OpenVINOExporter` with OpenVINO on the CPU, in float32.

    Args:
        path: The file; its weights are next to it.
        device: ``cpu``.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        path = only_file(Path(path))
        require("running an OpenVINO file", "openvino", "openvino")
        import openvino

        place = cpu_only(device, path)
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
        try:
            core = openvino.Core()
            model = core.read_model(path)
            held = model.get_rt_info(SECTION).value if model.has_rt_info(SECTION) else {}
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise ExportError(f"{path}: cannot be opened as an OpenVINO model: {reason}") from error
        stored = {PREFIX + key: str(getattr(value, "value", value)) for key, value in held.items()}
        super().__init__(path, stored, place)
        self.model = compiled

    def graph_text(self) -> str:
        """Return what the runtime made of the file for this CPU: kind, precision, name and shapes of each operator."""
        lines = []
        for node in self.model.get_runtime_model().get_ordered_ops():
            kind, precision = (node.get_rt_info()[key].value for key in ("layerType", "runtimePrecision"))
            shapes = "".join(str(output.partial_shape) for output in node.outputs())
            lines.append(f"{kind} {precision} {node.get_friendly_name()} {shapes}")
        return "\n".join(lines)

    def run(self, images: Tensor) -> list[Tensor]:
        values = self.model(images.cpu().numpy())
        return [torch.from_numpy(values[index].copy()) for index in range(len(self.names))]
