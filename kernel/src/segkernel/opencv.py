"""OpenCV, imported when it is first used, so that commands start faster."""

from __future__ import annotations

import os
from types import ModuleType

from segkernel.errors import SegKernelError


def opencv() -> ModuleType:
    """Return the module ``cv2``.

    Raises:
        SegKernelError: When it, or a system library that it needs, is missing; the message has the command to run.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # else it logs each private tag of a GeoTIFF
    try:
        import cv2
    except ImportError as error:
        raise SegKernelError(
            f"OpenCV cannot be loaded: {error}\n    pip install --force-reinstall opencv-python\n"
            "    if libGL is missing, on a headless machine: pip uninstall opencv-python, then "
            "pip install opencv-python-headless"
        ) from error
    return cv2
