"""OpenCV, imported where it is first used: starting a command does not wait for it."""

from __future__ import annotations

import os
from types import ModuleType

from segkernel.errors import SegKernelError


def opencv() -> ModuleType:
    """Return the module ``cv2``.

    Raises:
        SegKernelError: When it, or a library of the system that it needs, is missing; the message says what to type.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # a line for each private tag of each GeoTIFF
    try:
        import cv2
    except ImportError as error:
        raise SegKernelError(
            f"OpenCV cannot be loaded: {error}\n    pip install --force-reinstall opencv-python\n"
            "    on a machine without a screen that lacks libGL: pip uninstall opencv-python, then "
            "pip install opencv-python-headless"
        ) from error
    return cv2
