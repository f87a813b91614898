"""ONNX files in lower precision: float16 weights, and int8 by static calibration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import ExportError

QUANTIZED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""The operators that run in int8; they have nearly all of a network's operations."""


def to_float16(path: Path) -> None:
    """Convert a file to float16 in place; inputs and outputs stay as they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)


def to_int8(path: Path, batches: Sequence[np.ndarray]) -> None:
    """Quantise a file in place: int8 weights by channel, uint8 activations with the ranges seen on the batches.

    The file holds pairs of QuantizeLinear and DequantizeLinear, which onnxruntime, OpenVINO and TensorRT all read.

    Raises:
        ExportError: When there are no batches.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not batches:
        raise ExportError("int8 is calibrated on images: the config has no data, and no --image was given")
    model = onnx.load(path)
    name, stored = model.graph.input[0].name, {entry.key: entry.value for entry in model.metadata_props}

    class Reader(CalibrationDataReader):
        """The batches, as onnxruntime asks for them."""

        def __init__(self) -> None:
            self.rest: Iterator[np.ndarray] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self.rest, None)
            return None if images is None else {name: images}

    prepared = path.with_name("prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(QUANTIZED),
        extra_options={"CalibMovingAverage": True},
    )
    os.unlink(prepared)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, stored)
    onnx.save(model, path)
