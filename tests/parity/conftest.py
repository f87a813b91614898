"""Make the modules of this folder importable; it is not a package, so that ``run.py`` runs as a script."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def full_cases() -> Path:
    """Return the folder of full cases in ``SEGKERNEL_PARITY``, of which the packed cases are subsampled copies."""
    folder = os.environ.get("SEGKERNEL_PARITY")
    if folder is None:
        pytest.skip("SEGKERNEL_PARITY, the folder of the full golden cases, is not set")
    return Path(folder)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
