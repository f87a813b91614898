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
    from segplug_deploy.exporter import ONNXExporter as ONNXExporter
    from segplug_deploy.proof import Proof as Proof
    from segplug_deploy.proof import prove as prove
    from segplug_deploy.runtime import ONNXSegmentor as ONNXSegmentor
# isort: on

_HOMES = {
    "ONNXExporter": ".exporter",
    "ONNXSegmentor": ".runtime",
    "Proof": ".proof",
    "prove": ".proof",
}
# Here they end.

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
