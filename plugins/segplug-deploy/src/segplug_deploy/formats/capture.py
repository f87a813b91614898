"""What the formats of torch share: a graph captured with `torch.export`."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from segplug_deploy.exporter import Dynamic, dynamic_shapes
from segplug_deploy.graph import Graph


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
