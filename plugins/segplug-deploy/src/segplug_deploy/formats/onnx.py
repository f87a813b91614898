"""`ONNXExporter`: a segmentor as an ONNX file, and onnxruntime as its runtime.

ONNXExporter().export(segmentor, "model.onnx", images, metadata)
logits = ONNXExporter().load("model.onnx")(images)
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Predicate
from torch import Tensor
from typing_extensions import Unpack

from segkernel.errors import ExportError
from segplug_deploy.certificate import Evidence
from segplug_deploy.exporter import Dynamic, ExporterArguments, Precision, VerifiedExporter
from segplug_deploy.formats.capture import capture, quiet
from segplug_deploy.formats.labels_loop import translations
from segplug_deploy.graph import Graph
from segplug_deploy.quantize import to_float16, to_int8
from segplug_deploy.runtime import ExportedSegmentor, only_file, opening, require

PROTOBUF_LIMIT = 2_000_000_000
"""Bytes; larger weights go into a second file, ``NAME.onnx.data``, which must stay next to the first."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Torch device type to onnxruntime's execution provider."""


def known_to_onnx(opset: int) -> bool:
    """Whether the installed ``onnx`` supports this version of the operator set; true if it is not installed."""
    if not importlib.util.find_spec("onnx"):
        return True
    return opset <= importlib.import_module("onnx.defs").onnx_opset_version()


class ONNXExporter(VerifiedExporter):
    """Write ONNX with torch's exporter and verify the file with onnxruntime on the CPU.

    The graph returns every output of the segmentor under its name. Classes, colours and preprocessing are in the file's
    metadata.

    Args:
        opset: The ONNX operator set; None is the default of torch's exporter.
        precision: ``float16`` halves the file, and its input and output stay float32; ``int8`` quantises convolutions
            and matrix products, with ranges from images of the validation set.
        providers: onnxruntime's execution providers for `load`, in place of the device's.
    """

    suffix = ".onnx"

    def __init__(
        self,
        opset: Annotated[int, Ge(1), Predicate(known_to_onnx)] | None = None,
        precision: Precision = "float32",
        providers: Sequence[str] = (),
        **kwargs: Unpack[ExporterArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.opset, self.precision, self.providers = opset, precision, tuple(providers)

    def require(self) -> None:
        require_onnx()

    def write(self, graph: Graph, path: Path, images: Tensor, stored: Mapping[str, str], evidence: Evidence) -> None:
        graph = copy.copy(graph)
        graph.by_class = self.precision != "float16"  # onnxruntime's converter to float16 does not know loops
        write_onnx(graph, path, images, stored, evidence, self.dynamic, self.precision, self.opset)

    def open(self, path: Path, device: str | None) -> ONNXSegmentor:
        return ONNXSegmentor(path, device, self.providers)


def require_onnx() -> None:
    """Raise `ExportError` when a package is missing that writing ONNX needs."""
    require("exporting to ONNX", "", "onnx", "onnxscript", "onnxruntime")


def write_onnx(
    graph: Graph,
    path: Path,
    images: Tensor,
    stored: Mapping[str, str],
    evidence: Evidence,
    dynamic: Dynamic,
    precision: Precision = "float32",
    opset: int | None = None,
) -> None:
    """Write a graph as ONNX; the first arguments are those of `VerifiedExporter.write`.

    Raises:
        ExportError: When the operator set cannot be written, or the weights are too large for the precision.
    """
    captured, names = capture(graph, images, dynamic), graph.names
    with quiet():
        program: Any = torch.onnx.export(
            captured,
            input_names=["images"],
            output_names=names,
            opset_version=opset,
            dynamo=True,
            verbose=False,
            custom_translation_table=translations(),
        )
    written = program.model.opset_imports.get("")
    if opset not in (None, written):
        raise ExportError(f"opset {opset} cannot be written, torch's exporter wrote {written}; try {written}")
    program.model.metadata_props.update(stored)
    external = sum(p.numel() * p.element_size() for p in graph.state_dict().values()) > PROTOBUF_LIMIT
    if external and precision != "float32":
        raise ExportError(f"precision {precision} is for weights of up to 2 GB")
    with quiet():
        program.save(path, external_data=external)
        if precision == "float16":
            to_float16(path)
        elif precision == "int8":
            to_int8(path, list(_calibration(graph, images, evidence)))


def _calibration(graph: Graph, images: Tensor, evidence: Evidence) -> Iterator[Any]:
    """Yield the images to calibrate with, as the file takes them and of the size of ``images``."""
    baked = graph.interface.preprocess
    for normalised in evidence.calibration_images(images.shape[1:3] if baked else images.shape[2:]):
        yield (graph.pixels.restore(normalised) if baked else normalised).numpy()


class ONNXSegmentor(ExportedSegmentor):
    """Runs an ONNX file with onnxruntime.

    Args:
        path: A file written by `ONNXExporter`.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None is CUDA if torch and onnxruntime both support it, else the CPU.
        providers: onnxruntime's execution providers, in order of preference, in place of the device's.

    Raises:
        ExportError: When the file is missing, damaged, or not written by `ONNXExporter`, or when onnxruntime cannot run
            on the device.
    """

    def __init__(self, path: str | Path, device: str | None = None, providers: Sequence[str] = ()) -> None:
        session, place = _open(Path(path), device, providers)
        (given, *_) = session.get_inputs()
        stored = session.get_modelmeta().custom_metadata_map
        sides = tuple(size if isinstance(size, int) else None for size in given.shape)
        if given.type == "tensor(uint8)":  # (N, H, W, C)
            sides = (sides[0], sides[3], sides[1], sides[2])
        super().__init__(Path(path), stored, place, sides)
        self.session, self._name = session, given.name

    def graph_text(self) -> str:
        require("printing an ONNX file", "", "onnx")
        import onnx

        graph = onnx.load(self.path, load_external_data=False).graph
        del graph.initializer[:]  # the weights
        return onnx.printer.to_text(graph)

    def run(self, images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(v) for v in self.session.run(self.names, {self._name: images.cpu().numpy()})]


def _open(path: Path, device: str | None, providers: Sequence[str]) -> tuple[Any, torch.device]:
    require("running an ONNX file", "", "onnxruntime")
    import onnxruntime

    only_file(path)
    chosen = _device(device or ("cpu" if providers else None), onnxruntime.get_available_providers())
    wanted = list(providers) or [PROVIDERS[chosen.type]]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are exceptions
    options.intra_op_num_threads = torch.get_num_threads()
    settings = [{"device_id": chosen.index or 0} if name == PROVIDERS["cuda"] else {} for name in wanted]
    with opening(path, "an ONNX file"):
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted, provider_options=settings)
    if wanted[0] not in session.get_providers():  # onnxruntime only logs it, and takes the CPU
        raise ExportError(f"{path}: onnxruntime could not start {wanted[0]}, a library may be missing; try device: cpu")
    return session, chosen


def _device(asked: str | None, available: Sequence[str]) -> torch.device:
    """Return the device to run on; raise `ExportError` when the installed onnxruntime does not support it."""
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() and PROVIDERS["cuda"] in available else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ExportError(f"{asked!r} is not a device; an ONNX file runs on cpu, cuda or cuda:1") from error
    if PROVIDERS.get(device.type) not in available:
        hint = "\n    pip install onnxruntime-gpu in place of onnxruntime" if device.type == "cuda" else ""
        raise ExportError(
            f"the installed onnxruntime cannot run on {asked}: it has {', '.join(available)}; choose device: cpu{hint}"
        )
    return device
