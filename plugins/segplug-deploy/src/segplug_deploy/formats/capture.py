"""What the formats of torch share: a graph captured with `torch.export`, and files that torch runs."""

from __future__ import annotations

import contextlib
import logging
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from segplug_deploy.exporter import Dynamic, dynamic_shapes
from segplug_deploy.graph import Graph
from segplug_deploy.runtime import ExportedSegmentor, cpu_or_cuda, only_file, opening

METADATA = "segkernel.json"
"""Name of the metadata's entry in archives of torch."""


def capture(graph: Graph, images: Tensor, dynamic: Dynamic, shapes: Any = None) -> torch.export.ExportedProgram:
    """Return the graph as a program, with the sizes of the images dynamic on request.

    Args:
        graph: In evaluation mode.
        images: What the graph takes.
        dynamic: As in `VerifiedExporter`.
        shapes: The dynamic axes with their bounds, in place of those of ``dynamic``.
    """
    with quiet():
        shapes = shapes or dynamic_shapes(dynamic, graph.interface)
        return torch.export.export(graph, (images,), dynamic_shapes=shapes, strict=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of exporters; their errors are exceptions."""
    names = ("torch.export", "torch._inductor", "torch.onnx", "onnxscript", "onnx_ir", "root", "coremltools")
    loggers = [logging.getLogger(name) for name in names]
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


class TorchFileSegmentor(ExportedSegmentor):
    """Runs a file that torch opens as a module.

    Args:
        path: The file.
        device: ``cpu`` or ``cuda``; None is CUDA if there is one.
    """

    what: ClassVar[str]
    """What the file is, for messages."""

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        path = only_file(Path(path))
        place = self.place(device, path)
        with opening(path, self.what), quiet():
            module, stored = self.read(path, place)
        super().__init__(path, stored, place)
        self.module = module

    def place(self, device: str | None, path: Path) -> torch.device:
        """Return where it runs; raises `ExportError`."""
        return cpu_or_cuda(device, path)

    @abstractmethod
    def read(self, path: Path, device: torch.device) -> tuple[Any, Mapping[str, str]]:
        """Return the module and the metadata of a file."""

    @torch.no_grad()
    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module(images.to(self.device)))
