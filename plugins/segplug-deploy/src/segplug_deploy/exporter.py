"""`ONNXExporter`: a segmentor as an ONNX file, which is only written if its outputs match the torch model's."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Predicate
from torch import Tensor, nn
from torch.nn.functional import interpolate

from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.errors import ExportError
from segkernel.interfaces.model import Exporter, Segmentor
from segplug_deploy.proof import prove, table
from segplug_deploy.runtime import PREFIX, ONNXSegmentor

log = logging.getLogger(__name__)

PROTOBUF_LIMIT = 2_000_000_000
"""Bytes; larger weights go into a second file, ``NAME.onnx.data``, which must stay next to the first."""


def known_to_onnx(opset: int) -> bool:
    """Whether the installed ``onnx`` supports this version of the operator set; true if it is not installed."""
    if not importlib.util.find_spec("onnx"):
        return True
    return opset <= importlib.import_module("onnx.defs").onnx_opset_version()


class ONNXExporter(Exporter):
    """Write ONNX with torch's exporter and verify the file with onnxruntime on the CPU.

    The graph takes normalised images (N, C, H, W) and returns the logits of every output of the segmentor, under
    its name. Classes, colours and preprocessing are in the file's metadata.

    Args:
        dynamic: ``True`` leaves batch, height and width dynamic, ``"batch"`` the batch only, ``False`` fixes all three
            to the example's.
        opset: The ONNX operator set; None is the default of torch's exporter.
        check_sizes: Further (height, width) at which a file with dynamic sizes is verified; when empty, two are
            chosen around the example's.
        tolerance: Largest difference allowed, as a share of the largest logit.
        agreement: Least share of pixels with the same label.
        device: Device on which `load` runs a file, ``cpu``, ``cuda`` or ``cuda:1``; None is the one passed to `load`,
            or the best that onnxruntime supports.
        providers: onnxruntime's execution providers for `load`, in place of the device's.
    """

    suffix = ".onnx"

    def __init__(
        self,
        dynamic: bool | Literal["batch"] = True,
        opset: Annotated[int, Ge(1), Predicate(known_to_onnx)] | None = None,
        check_sizes: Sequence[tuple[PositiveInt, PositiveInt]] = (),
        tolerance: NonNegative = 1e-3,
        agreement: Probability = 0.999,
        device: str | None = None,
        providers: Sequence[str] = (),
    ) -> None:
        self.dynamic, self.opset, self.check_sizes = dynamic, opset, tuple(check_sizes)
        self.tolerance, self.agreement = tolerance, agreement
        self.device, self.providers = device, tuple(providers)

    def export(
        self, segmentor: Segmentor, path: str | Path, example: Tensor, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Write ``path`` and return the differences as a table; the segmentor is not modified.

        Raises:
            ExportError: When the model cannot be exported or the file's outputs differ; an existing file at ``path``
                is then kept.
        """
        _require("onnx", "onnxscript", "onnxruntime")
        path = Path(path)
        model = copy.deepcopy(segmentor).cpu().eval()
        example = example.detach().float().cpu()
        log.info("tracing the model on an image of %d x %d", *example.shape[-2:])
        program = self._trace(model, example)
        program.model.metadata_props.update(_stored(model, metadata or {}))
        with _temporary_folder(path) as temporary:
            external = sum(p.numel() * p.element_size() for p in model.state_dict().values()) > PROTOBUF_LIMIT
            with _quiet():
                program.save(temporary / path.name, external_data=external)
            log.info("comparing the outputs of the file with those of the model")
            exported = ONNXSegmentor(temporary / path.name, "cpu")
            proofs = prove(model, exported, self._batches(model, example), self.tolerance, self.agreement)
            del exported  # closes the files, which Windows cannot move while they are open
            for file in sorted(temporary.iterdir(), key=lambda file: file.name == path.name):
                os.replace(file, path.with_name(file.name))
        return table(proofs)

    def load(self, path: str | Path, device: str | None = None) -> ONNXSegmentor:
        return ONNXSegmentor(path, self.device or device, self.providers)

    def _trace(self, model: Segmentor, example: Tensor) -> Any:
        images = _for_tracing(example) if self.dynamic else example
        try:
            with _quiet(), torch.no_grad():
                model.predict(images)  # fills caches of what is the same for all images, such as class embeddings
                program = torch.onnx.export(
                    _Graph(model).eval(),
                    (images,),
                    dynamo=True,
                    dynamic_shapes=self._dynamic_shapes(),
                    input_names=["images"],
                    output_names=list(model.outputs),
                    opset_version=self.opset,
                    verbose=False,
                )
        except Exception as error:  # the exporter can stop with any exception of torch's compiler
            raise ExportError(self._why(error)) from error
        written = program.model.opset_imports.get("")  # type: ignore[union-attr]
        if self.opset not in (None, written):
            raise ExportError(f"opset {self.opset} cannot be written, torch's exporter wrote {written}; try {written}")
        return program

    def _dynamic_shapes(self) -> tuple[dict[int, Any], ...] | None:
        if not self.dynamic:
            return None
        axes = (0,) if self.dynamic == "batch" else (0, 2, 3)
        return (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)

    def _why(self, error: Exception) -> str:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = "\n    ".join(lines[:6]) or type(error).__name__
        hint = "\n    a graph with fixed sizes may work: dynamic: false" if self.dynamic else ""
        return f"torch cannot export this model: {reason}{hint}"

    def _batches(self, model: Segmentor, example: Tensor) -> Iterator[Tensor]:
        """Yield the example, and further inputs that the file supports: a batch of two, other sizes."""
        yield example
        if not self.dynamic:
            return
        pair = torch.cat([example[:1], example[:1].flip(-1)])
        if self.dynamic == "batch":
            yield pair
            return
        for size in self.check_sizes or _other_sizes(model, example):
            yield interpolate(pair, size=tuple(size), mode="bilinear", align_corners=False)


class _Graph(nn.Module):
    """The exported module: images to a tuple of logits, in the order of the segmentor's outputs."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits = self.segmentor.predict(images)
        return tuple(logits[name] for name in self.segmentor.outputs)


def _for_tracing(example: Tensor) -> Tensor:
    """Return two images of different height and width: torch specialises a size of 1, and equal sizes."""
    images = torch.cat([example[:1], example[:1]])
    if images.shape[2] == images.shape[3]:
        images = interpolate(images, size=(images.shape[2], images.shape[3] + 32), mode="nearest")
    return images


def _other_sizes(model: Segmentor, example: Tensor) -> list[tuple[int, int]]:
    height, width = example.shape[-2:]
    rounded = (max(_round(height * 0.75), 32), _round(width * 1.25))
    odd = (height + 13, max(width - 7, 33))
    with torch.no_grad():
        try:
            model.predict(interpolate(example[:1], size=odd))
        except Exception:  # the torch model does not support odd sizes
            odd = (_round(height * 1.5), max(_round(width * 0.75), 32))
    return [rounded, odd]


def _round(length: float) -> int:
    return max(round(length / 32), 1) * 32


def _stored(model: Segmentor, metadata: Mapping[str, Any]) -> dict[str, str]:
    entries = {**metadata, "outputs": {name: output.config() for name, output in model.outputs.items()}}
    entries.setdefault("test_cfg", dict(getattr(model, "test_cfg", None) or {}))
    try:
        return {PREFIX + key: json.dumps(value) for key, value in entries.items()}
    except TypeError as error:
        raise ExportError(f"the metadata of an exported file must be plain values: {error}") from error


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder on the same file system, from which finished files can be renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output of torch's exporter; its errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"exporting to ONNX needs {', '.join(missing)}\n    pip install {' '.join(missing)}")
