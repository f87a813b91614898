"""Exporters: a trained model as a file that is verified to have the same outputs.

    from segplug_deploy import ONNXExporter

Importing this package imports no torch; a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# The names below are written by tools/update_known.py.
# isort: off
if TYPE_CHECKING:
    from segplug_deploy.certificate import Certificate as Certificate
    from segplug_deploy.certificate import Evidence as Evidence
    from segplug_deploy.evaluation import FastEvaluationHook as FastEvaluationHook
    from segplug_deploy.exporter import VerifiedExporter as VerifiedExporter
    from segplug_deploy.formats.aot_inductor import AOTInductorExporter as AOTInductorExporter
    from segplug_deploy.formats.coreml import CoreMLExporter as CoreMLExporter
    from segplug_deploy.formats.executorch import ExecuTorchExporter as ExecuTorchExporter
    from segplug_deploy.formats.onnx import ONNXExporter as ONNXExporter
    from segplug_deploy.formats.onnx import ONNXSegmentor as ONNXSegmentor
    from segplug_deploy.formats.openvino import OpenVINOExporter as OpenVINOExporter
    from segplug_deploy.formats.tensorrt import TensorRTExporter as TensorRTExporter
    from segplug_deploy.formats.torch_export import TorchExportExporter as TorchExportExporter
    from segplug_deploy.formats.torchscript import TorchScriptExporter as TorchScriptExporter
    from segplug_deploy.inference import optimize_for_inference as optimize_for_inference
    from segplug_deploy.labels import resized_argmax as resized_argmax
    from segplug_deploy.outputs import PixelLabels as PixelLabels
    from segplug_deploy.proof import Proof as Proof
    from segplug_deploy.proof import prove as prove
    from segplug_deploy.runtime import ExportedSegmentor as ExportedSegmentor
# isort: on

_HOMES = {
    "AOTInductorExporter": ".formats.aot_inductor",
    "Certificate": ".certificate",
    "CoreMLExporter": ".formats.coreml",
    "Evidence": ".certificate",
    "ExecuTorchExporter": ".formats.executorch",
    "ExportedSegmentor": ".runtime",
    "FastEvaluationHook": ".evaluation",
    "ONNXExporter": ".formats.onnx",
    "ONNXSegmentor": ".formats.onnx",
    "OpenVINOExporter": ".formats.openvino",
    "PixelLabels": ".outputs",
    "Proof": ".proof",
    "TensorRTExporter": ".formats.tensorrt",
    "TorchExportExporter": ".formats.torch_export",
    "TorchScriptExporter": ".formats.torchscript",
    "VerifiedExporter": ".exporter",
    "optimize_for_inference": ".inference",
    "prove": ".proof",
    "resized_argmax": ".labels",
}
# Here they end.

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
