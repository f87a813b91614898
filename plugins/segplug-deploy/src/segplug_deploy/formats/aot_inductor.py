"""`AOTInductorExporter`: a segmentor compiled to machine code by torch's Inductor, ``.aoti``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from segkernel.errors import ExportError
from segplug_deploy.certificate import Evidence
from segplug_deploy.exporter import FormatExporter, conformance_exceptions
from segplug_deploy.formats.capture import TorchFileSegmentor, capture, quiet
from segplug_deploy.graph import Graph
from segplug_deploy.runtime import cpu_only


def _missing_compiler() -> str | None:
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) or shutil.which("clang++") else f"{compiler} is not installed"


class AOTInductorExporter(FormatExporter):
    """Compile the program of `torch.export` ahead of time, for the processor and system of this machine.

    Needs a C++ compiler; compiling takes one to several minutes. The file is an archive of torch with another suffix,
    since ``.pt2`` is that of uncompiled programs.
    """

    suffix = ".aoti"
    runs_code = True
    conformance: ClassVar = {"dynamic": False}
    conformance_exceptions: ClassVar = conformance_exceptions(_missing_compiler())

    def require(self) -> None:
        if reason := _missing_compiler():
            raise ExportError(f"compiling a model needs a C++ compiler: {reason}")

    def write(self, graph: Graph, path: Path, images: Tensor, stored: Mapping[str, str], evidence: Evidence) -> None:
        program, package = capture(graph, images, self.dynamic), path.with_suffix(".pt2")
        with quiet():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(package), inductor_configs={"aot_inductor.metadata": dict(stored)}
            )
        package.rename(path)

    def open(self, path: Path, device: str | None) -> AOTInductorSegmentor:
        return AOTInductorSegmentor(path, device)


class AOTInductorSegmentor(TorchFileSegmentor):
    """Runs a file of `AOTInductorExporter` on the CPU."""

    what = "a compiled program"

    def place(self, device: str | None, path: Path) -> torch.device:
        return cpu_only(device, path)

    def read(self, path: Path, device: torch.device) -> tuple[Any, Mapping[str, str]]:
        # The reader unpacks a file of any suffix; its warning about it is suppressed.
        module = torch._inductor.aoti_load_package(str(path))
        return module, module.get_metadata()
