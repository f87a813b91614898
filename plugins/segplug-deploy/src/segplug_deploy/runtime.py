"""An ONNX file as a segmentor that only predicts.

model = ONNXSegmentor("model.onnx")
logits = model(images)["seg"]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkernel import build
from segkernel.errors import ExportError
from segkernel.interfaces.model import Segmentor, TestConfig, output_of
from segkernel.sample import Targets

PREFIX = "segkernel."
"""Prefix of segkernel's keys in the file's metadata; their values are JSON."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Torch device type to onnxruntime's execution provider."""


class ONNXSegmentor(Segmentor):
    """Runs an exported file with onnxruntime; images and logits are torch tensors, as with any segmentor.

    ``metadata`` was stored at export: classes, palette, preprocess. ``device`` is the device that the file runs on;
    images on another device are copied.

    Args:
        path: A file written by `ONNXExporter`.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None is CUDA if torch and onnxruntime both support it, else the CPU.
        providers: onnxruntime's execution providers, in order of preference, in place of the device's.

    Raises:
        ExportError: When the file is missing, damaged, or not written by `ONNXExporter`, or when onnxruntime cannot run
            on the device.
    """

    def __init__(self, path: str | Path, device: str | None = None, providers: Sequence[str] = ()) -> None:
        super().__init__()
        self.path = Path(path)
        self.session, self.device = _open(self.path, device, providers)
        self.metadata = _metadata(self.session, self.path)
        self.outputs = {name: output_of(spec) for name, spec in self.metadata.pop("outputs").items()}
        self.test_cfg: TestConfig = build(TestConfig, self.metadata.get("test_cfg") or {}, path="test_cfg")
        self._input = self.session.get_inputs()[0]

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits per output, on the device of ``images``.

        Raises:
            ExportError: When the file was exported for other sizes, or fails at this one.
        """
        self._check(images)
        values = self._run(images.detach().float().cpu().numpy())
        return {
            name: torch.from_numpy(value).to(images.device) for name, value in zip(self.outputs, values, strict=True)
        }

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the main output."""
        return self.predict(images)["seg"]

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Raise `ExportError`: an exported file cannot be trained."""
        raise ExportError(f"{self.path}: an exported model only predicts; it has no loss and cannot be trained")

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        try:
            return self.session.run(list(self.outputs), {self._input.name: images})
        except Exception as error:  # no common base class; a graph that is wrong at this size often fails here
            reason = str(error).splitlines()[0]
            raise ExportError(f"{self.path}: does not run on images of shape {images.shape}: {reason}") from error

    def _check(self, images: Tensor) -> None:
        wanted = self._input.shape
        fits = all(
            not isinstance(size, int) or size == given for size, given in zip(wanted, images.shape, strict=False)
        )
        if len(wanted) != images.ndim or not fits:
            taken = "x".join(str(size) if isinstance(size, int) else "any" for size in wanted)
            given = "x".join(str(size) for size in images.shape)
            raise ExportError(f"{self.path}: takes images of {taken}, got {given}; export with dynamic: true")


def _open(path: Path, device: str | None, providers: Sequence[str]) -> tuple[Any, torch.device]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError("running an ONNX file needs onnxruntime\n    pip install onnxruntime") from error
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    chosen = _device(device or ("cpu" if providers else None), onnxruntime.get_available_providers())
    wanted = list(providers) or [PROVIDERS[chosen.type]]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    settings = [{"device_id": chosen.index or 0} if name == PROVIDERS["cuda"] else {} for name in wanted]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted, provider_options=settings)
    except Exception as error:  # onnxruntime's errors share no public base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(f"{path}: cannot be opened as an ONNX file: {reason}") from error
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


def _metadata(session: Any, path: Path) -> dict[str, Any]:
    stored: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    try:
        metadata = {key[len(PREFIX) :]: json.loads(text) for key, text in stored.items() if key.startswith(PREFIX)}
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: its metadata is damaged: {error}") from error
    outputs = metadata.get("outputs")
    described = isinstance(outputs, dict) and all(isinstance(output, dict) for output in outputs.values())
    if not (described and "seg" in metadata["outputs"]):
        raise ExportError(f"{path}: its metadata does not describe its outputs; was it written by another tool?")
    return metadata
