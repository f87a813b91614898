"""`TensorRTExporter`: a segmentor as an engine of TensorRT, ``.engine``."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from segkernel.errors import ExportError
from segplug_deploy.certificate import Evidence
from segplug_deploy.exporter import (
    OPEN_BATCH,
    OPEN_SIZE,
    ExporterArguments,
    Precision,
    VerifiedExporter,
    conformance_exceptions,
)
from segplug_deploy.formats.onnx import require_onnx, write_onnx
from segplug_deploy.graph import Graph
from segplug_deploy.runtime import ExportedSegmentor, cpu_or_cuda, missing, only_file, opening, require

LENGTH = struct.Struct("<Q")
"""A file is the length of the metadata, the metadata as JSON, and the engine as TensorRT serialises it."""
LARGEST_BATCH, LARGEST = 8, 2
"""Dynamic batches are at most this large, dynamic sides at most this many times those of the example."""


def _without_gpu() -> str | None:
    return None if torch.cuda.is_available() else "TensorRT needs an NVIDIA GPU"


class TensorRTExporter(VerifiedExporter):
    """Build an engine from ONNX for the GPU of this machine, and verify it there.

    An engine runs on GPUs of the same kind with the same version of TensorRT.

    Args:
        precision: ``float16`` lets TensorRT choose half precision where it is faster; ``int8`` is quantised as by
            `ONNXExporter`.
    """

    suffix = ".engine"
    runs_code = True
    runs_on: ClassVar[str] = "cuda"
    conformance_exceptions: ClassVar = conformance_exceptions(missing("tensorrt") or _without_gpu())

    def __init__(self, precision: Precision = "float32", **kwargs: Unpack[ExporterArguments]) -> None:
        super().__init__(**kwargs)
        self.precision = precision

    def require(self) -> None:
        require_onnx()
        require("exporting to TensorRT", "tensorrt", "tensorrt")
        if reason := _without_gpu():
            raise ExportError(f"an engine is built on the GPU that runs it: {reason}")

    def write(self, graph: Graph, path: Path, images: Tensor, stored: Mapping[str, str], evidence: Evidence) -> None:
        import tensorrt

        onnx = path.with_suffix(".onnx")
        precision: Precision = "int8" if self.precision == "int8" else "float32"
        write_onnx(graph, onnx, images, stored, evidence, self.dynamic, precision)
        log = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(log)
        network, config = builder.create_network(0), builder.create_builder_config()
        parser = tensorrt.OnnxParser(network, log)
        if not parser.parse_from_file(str(onnx)):
            reasons = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise ExportError(f"TensorRT cannot read the graph: {'; '.join(reasons[:3])}")
        for flag, wanted in (("FP16", self.precision != "float32"), ("INT8", self.precision == "int8")):
            if wanted:
                config.set_flag(getattr(tensorrt.BuilderFlag, flag))
        if self.precision == "float32":
            config.clear_flag(tensorrt.BuilderFlag.TF32)  # 10 bits of mantissa are beyond the tolerance
        if self.dynamic:
            profile = builder.create_optimization_profile()
            profile.set_shape("images", *self._bounds(graph, images))
            config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise ExportError("TensorRT could not build an engine; its log on stderr has the reason")
        header = json.dumps(dict(stored)).encode()
        path.write_bytes(LENGTH.pack(len(header)) + header + bytes(engine))
        for leftover in path.parent.glob(f"{onnx.name}*"):
            leftover.unlink()

    def open(self, path: Path, device: str | None) -> TensorRTSegmentor:
        return TensorRTSegmentor(path, device)

    def _bounds(self, graph: Graph, images: Tensor) -> tuple[tuple[int, ...], ...]:
        """Return the smallest, the usual and the largest shape of the images."""
        usual, axis = [1, *images.shape[1:]], 1 if graph.interface.preprocess else 2
        least, most = [*usual], [*usual]
        if self.dynamic in OPEN_BATCH:
            most[0] = LARGEST_BATCH
        if self.dynamic in OPEN_SIZE:
            least[axis : axis + 2] = [32, 32]
            most[axis : axis + 2] = [LARGEST * side for side in usual[axis : axis + 2]]
        return tuple(least), tuple(usual), tuple(most)


class TensorRTSegmentor(ExportedSegmentor):
    """Runs an engine of `TensorRTExporter`.

    Args:
        path: The file.
        device: ``cuda`` or ``cuda:1``.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        path = only_file(Path(path))
        require("running a TensorRT engine", "tensorrt", "tensorrt")
        import tensorrt

        place = cpu_or_cuda(device or "cuda", path)
        if place.type != "cuda":
            raise ExportError(f"{path}: a TensorRT engine runs on cuda, not on {device}")
        content = path.read_bytes()
        with opening(path, "a TensorRT engine"):
            (length,) = LENGTH.unpack_from(content)
            stored = json.loads(content[LENGTH.size : LENGTH.size + length])
            with torch.cuda.device(place):
                runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
                engine = runtime.deserialize_cuda_engine(content[LENGTH.size + length :])
                context: Any = engine.create_execution_context()
        super().__init__(path, stored, place)
        self.engine, self.context = engine, context

    def run(self, images: Tensor) -> list[Tensor]:
        import tensorrt

        images = images.to(self.device)
        if not self.context.set_input_shape("images", tuple(images.shape)):
            raise ExportError(f"the engine was built for other sizes than {tuple(images.shape)}")
        self.context.set_tensor_address("images", images.data_ptr())
        kinds = {tensorrt.uint8: torch.uint8, tensorrt.int64: torch.int64, tensorrt.int32: torch.int32}
        values = []
        for name in self.names:
            kind = kinds.get(self.engine.get_tensor_dtype(name), torch.float32)
            values.append(torch.empty(tuple(self.context.get_tensor_shape(name)), dtype=kind, device=self.device))
            self.context.set_tensor_address(name, values[-1].data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise ExportError("the engine failed; TensorRT's log on stderr has the reason")
        stream.synchronize()
        return values
