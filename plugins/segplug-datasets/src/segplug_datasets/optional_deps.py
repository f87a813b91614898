"""Optional dependencies: imported when used, with an error that names what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from segkernel.errors import SegKernelError


class ExtraMissingError(SegKernelError):
    """An optional package is not installed.

    Args:
        package: Name of the missing module.
        extra: The extra of ``segplug-datasets`` that installs it.
        what: The feature that needs it.
    """

    exit_code = 3

    def __init__(self, package: str, extra: str, what: str) -> None:
        self.package, self.extra, self.what = package, extra, what
        super().__init__(f"{what} needs {package}, which is not installed\n    pip install 'segplug-datasets[{extra}]'")


def require_package(package: str, extra: str, what: str) -> ModuleType:
    """Import a module of an optional package.

    Raises:
        ExtraMissingError: When it is missing.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExtraMissingError(package.partition(".")[0], extra, what) from error
