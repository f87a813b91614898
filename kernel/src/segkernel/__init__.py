"""segkernel: a small kernel for semantic segmentation, and the plugins it discovers.

    from segkernel import Predictor, Runner, build, load_config, run

Importing it imports nothing heavy; the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

PUBLIC_MODULES = ("nn", "annotations", "interfaces", "labels", "engine", "schedules", "sample", "geometry", "image",
    "headers", "hookspecs", "hooks", "inference", "errors", "weights", "config", "data", "files", "cli", "checkpoint",
    "loading", "experiment", "predictor", "plain", "catalog", "signature", "testing")  # fmt: skip
"""The modules that plugins may import; all others may change in any release."""

if TYPE_CHECKING:
    from segkernel.building import build as build
    from segkernel.catalog import Catalog as Catalog
    from segkernel.config import load_config as load_config
    from segkernel.config.sections import Evaluation as Evaluation
    from segkernel.data import Loader as Loader
    from segkernel.engine import LocalEngine as LocalEngine
    from segkernel.errors import SegKernelError as SegKernelError
    from segkernel.experiment import run as run
    from segkernel.hookspecs import Priority as Priority
    from segkernel.hookspecs import hookimpl as hookimpl
    from segkernel.predictor import Predictor as Predictor
    from segkernel.runner import Runner as Runner

_HOMES = {
    "build": "segkernel.building", "Catalog": "segkernel.catalog", "load_config": "segkernel.config",
    "Loader": "segkernel.data", "LocalEngine": "segkernel.engine", "SegKernelError": "segkernel.errors",
    "Evaluation": "segkernel.config.sections", "Priority": "segkernel.hookspecs", "hookimpl": "segkernel.hookspecs",
    "Predictor": "segkernel.predictor", "Runner": "segkernel.runner", "run": "segkernel.experiment",
}  # fmt: skip

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, *(name for name in PUBLIC_MODULES if isinstance(globals().get(name), type(importlib)))]
