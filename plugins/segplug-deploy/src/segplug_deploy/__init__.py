"""Exporters: a trained model as a file that is verified to have the same outputs.

    from segplug_deploy import ONNXExporter

Importing this package imports no torch; a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segplug_deploy.exporter import ONNXExporter
    from segplug_deploy.proof import Proof, prove
    from segplug_deploy.runtime import ONNXSegmentor

_HOMES = {"ONNXExporter": "exporter", "ONNXSegmentor": "runtime", "Proof": "proof", "prove": "proof"}

__all__ = ["ONNXExporter", "ONNXSegmentor", "Proof", "prove"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
