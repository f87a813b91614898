"""MATLAB files. Needs scipy: ``pip install "segplug-datasets[mat]"``."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from segkernel.errors import DataError
from segplug_datasets.optional_deps import require_package
from segplug_datasets.prepare.sources import SourceFile


def load(file: SourceFile) -> dict[str, Any]:
    """Return the variables of a MATLAB file, up to version 7.

    Raises:
        ExtraMissingError: When scipy is missing.
        DataError: When the file is damaged.
    """
    io = require_package("scipy.io", "mat", "reading MATLAB files")
    try:
        variables: dict[str, Any] = io.loadmat(BytesIO(file.read()))
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        raise DataError(f"not a MATLAB file, or a damaged one: {error}", file.name) from error
    return variables
